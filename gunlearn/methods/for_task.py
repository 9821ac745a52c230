"""The methods that a task's requests can be handed to."""

from typing import Any

from gunlearn.errors import UnsupportedMethodError
from gunlearn.methods import METHODS
from gunlearn.tasks.base import Task


def names_for(task: Task) -> list[str]:
    """Return the names of the methods that take a task and its kinds of requests, sorted."""
    usable = {name: cls for name, cls in METHODS.importable().items() if isinstance(cls, type)}
    return sorted(name for name, cls in usable.items() if not why_not(cls, task))


def find_method(spec: str, task: Task) -> tuple[type[Any], dict[str, Any]]:
    """Return class and options of `"name"` or `"name:variant"`, as `METHODS.variant` does.

    Raises:
        InvalidInputError: an unknown name or variant; the message lists the methods of this task.
        UnsupportedMethodError: a method of other tasks or requests.
    """
    cls, options = METHODS.variant(spec, among=lambda: names_for(task))
    why = why_not(cls, task)
    if why:
        raise UnsupportedMethodError(f"Expected a method for '{task.name}' (got '{cls.name}', {why})")
    return cls, options


def why_not(cls: Any, task: Task) -> str:
    """Return what a method is for, where that is not this task; empty where it is."""
    if cls.tasks and task.name not in cls.tasks:
        return f"which is for {', '.join(cls.tasks)}"
    if cls.one_label and not task.one_label:
        return "which reads one label of each item"
    kinds = getattr(task, "requests", ())
    if kinds and cls.requests and not set(kinds) & set(cls.requests):
        return f"which forgets {', '.join(cls.requests)}"
    return ""
