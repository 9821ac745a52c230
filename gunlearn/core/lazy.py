"""Public names of a package that load on first use."""

import random
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from gunlearn.core.moved import MOVED


def lazy(package: str, homes: Mapping[str, Sequence[str]]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for a package to assign; its modules load on first use too.

    Args:
        package: its `__name__`.
        homes: names by the module that holds them.

    Raises:
        ValueError: a name is a module of the package too: the import of that module would hide it.
    """
    home_of = {name: home for home, names in homes.items() for name in names}
    module = sys.modules[package]
    parts = {part.name for part in iter_modules(module.__path__)}
    if hidden := sorted(parts & set(home_of)):
        raise ValueError(f"Expected names that no module of {package} has (got {hidden})")

    def __getattr__(name: str) -> Any:
        if name in home_of:
            value = module.__dict__[name] = getattr(_load(home_of[name]), name)
            return value
        if name in parts:
            return _load(f"{package}.{name}")
        new = MOVED.get(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}" + (f"; it is {new!r} now" if new else ""))

    def __dir__() -> list[str]:
        return sorted({*module.__dict__, *home_of})

    return __getattr__, __dir__


def _load(name: str) -> Any:
    """Import a module without a trace in Python's random state: rich draws numbers when it is imported."""
    state = random.getstate()
    try:
        return import_module(name)
    finally:
        random.setstate(state)
