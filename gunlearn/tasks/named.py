"""Tasks by their names."""

from collections.abc import Callable
from typing import Any

from gunlearn.core.options import did_you_mean
from gunlearn.core.registry import Registry
from gunlearn.errors import InvalidInputError
from gunlearn.tasks.base import Task

#: Every task by its name.
TASKS: Registry[Task] = Registry(
    "task",
    {
        "link_prediction": "gunlearn.tasks.graph.link_prediction:LinkPrediction",
        "node_classification": "gunlearn.tasks.graph.node_classification:NodeClassification",
        "graph_classification": "gunlearn.tasks.graph.graph_classification:GraphClassification",
        "node_regression": "gunlearn.tasks.graph.regression:NodeRegression",
        "graph_regression": "gunlearn.tasks.graph.regression:GraphRegression",
        "node_multilabel": "gunlearn.tasks.graph.multilabel:NodeMultilabel",
        "graph_multilabel": "gunlearn.tasks.graph.multilabel:GraphMultilabel",
        "image_classification": "gunlearn.tasks.items.arrays:ImageClassification",
        "causal_lm": "gunlearn.llm.training.causal_lm:CausalLM",
        "denoising": "gunlearn.diffusion.denoising:Denoising",
    },
    group="gunlearn.tasks",
    base="gunlearn.tasks.base:Task",
)


class DefaultTask(str):
    """The name of the task of a call that names none."""

    def __repr__(self) -> str:
        return f"{str(self)!r}"


#: The task of a call that names none.
LINKS_BY_DEFAULT = DefaultTask("link_prediction")


def reads_links(task: Task) -> bool:
    """Return whether a task predicts links, or is measured as one that does."""
    return LINKS_BY_DEFAULT in (task.name, task.measured_as)


def as_task(task: str | Task, call: Callable[..., Any] | None = None, decode: Callable[..., Any] | None = None) -> Task:
    """Return a task from its name, or the task itself; with the caller's way to call a model, see `Task.called`.

    Raises:
        InvalidInputError: an unknown name, or `"denoising"`, which needs a scheduler.
        MissingExtraError: `"causal_lm"` without transformers, `"denoising"` without diffusers.
        PluginError: the task of another package that cannot be loaded.
    """
    if isinstance(task, Task):
        return task.called(call, decode)
    if not isinstance(task, str) or task not in TASKS:
        known = sorted(TASKS)
        raise InvalidInputError(
            f"Expected a task among {known} or a Task object (got {task!r}){did_you_mean(task, known)}"
        )
    return TASKS[task]().called(call, decode)
