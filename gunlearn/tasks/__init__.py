"""Tasks: what a model predicts, item by item."""

from __future__ import annotations

from gunlearn.errors import InvalidInputError
from gunlearn.tasks.base import Parts, Task
from gunlearn.tasks.classification import ImageClassification
from gunlearn.tasks.graph import GraphTask
from gunlearn.tasks.graph_classification import GraphClassification
from gunlearn.tasks.link_prediction import EdgeParts, LinkPrediction
from gunlearn.tasks.negatives import NegativeSampler
from gunlearn.tasks.node_classification import NodeClassification, NodeItems, NodeParts
from gunlearn.tasks.random_nodes import RandomNodeParts
from gunlearn.tasks.sampling import ShuffledBatches, StratifiedSampler
from gunlearn.tasks.splits import link_split, node_split

TASKS = {task.name: task for task in (LinkPrediction, NodeClassification, GraphClassification, ImageClassification)}

__all__ = [
    "TASKS",
    "EdgeParts",
    "GraphClassification",
    "GraphTask",
    "ImageClassification",
    "LinkPrediction",
    "NegativeSampler",
    "NodeClassification",
    "NodeItems",
    "NodeParts",
    "Parts",
    "RandomNodeParts",
    "ShuffledBatches",
    "StratifiedSampler",
    "Task",
    "as_task",
    "link_split",
    "node_split",
]


def as_task(task: str | Task) -> Task:
    """A task from its name or from itself.

    Raises:
        InvalidInputError: an unknown name.
    """
    if isinstance(task, Task):
        return task
    if not isinstance(task, str) or task not in TASKS:
        raise InvalidInputError(f"Expected a task among {sorted(TASKS)} or a Task object (got {task!r})")
    return TASKS[task]()
