"""Who evaluates which task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from gunlearn.errors import UnsupportedMethodError
from gunlearn.metrics.base import Evaluator
from gunlearn.metrics.classes import ClassEvaluator
from gunlearn.metrics.link import LinkEvaluator
from gunlearn.tasks.base import Task

#: Who evaluates a task, by its name.
EVALUATORS: dict[str, type[Evaluator]] = {
    "link_prediction": LinkEvaluator,
    "node_classification": ClassEvaluator,
    "graph_classification": ClassEvaluator,
}


def evaluator(task: Task, partition: Any, references: Sequence[nn.Module] = (), seed: int = 0) -> Evaluator:
    """The evaluator of a task.

    Raises:
        UnsupportedMethodError: there is none for the task.
    """
    if task.name not in EVALUATORS:
        raise UnsupportedMethodError(f"Expected a task among {sorted(EVALUATORS)} to evaluate (got '{task.name}')")
    return EVALUATORS[task.name](task, partition, references, seed=seed)
