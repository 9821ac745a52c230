"""Tasks by their names."""

from __future__ import annotations

from gunlearn.errors import InvalidInputError
from gunlearn.tasks.base import Task
from gunlearn.tasks.graph.graph_classification import GraphClassification
from gunlearn.tasks.graph.link_prediction import LinkPrediction
from gunlearn.tasks.graph.node_classification import NodeClassification
from gunlearn.tasks.items.arrays import ImageClassification

TASKS = {task.name: task for task in (LinkPrediction, NodeClassification, GraphClassification, ImageClassification)}


def as_task(task: str | Task) -> Task:
    """Return a task by its name; a task itself is returned as it is.

    Raises:
        InvalidInputError: an unknown name.
        MissingExtraError: `"causal_lm"` without transformers.
    """
    if isinstance(task, Task):
        return task
    if task == "causal_lm":  # loads transformers
        from gunlearn.llm.model.causal_lm import CausalLM

        return CausalLM()
    if not isinstance(task, str) or task not in TASKS:
        raise InvalidInputError(
            f"Expected a task among {sorted([*TASKS, 'causal_lm'])} or a Task object (got {task!r})"
        )
    return TASKS[task]()
