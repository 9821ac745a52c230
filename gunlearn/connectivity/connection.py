"""What `gunlearn.connect` returns: a path between two models, and its figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from gunlearn.connectivity.dial import Dial
from gunlearn.connectivity.path_evaluation import PathEvaluation
from gunlearn.connectivity.weight_paths import WeightPath
from gunlearn.tasks.base import Task


@dataclass(eq=False)
class Connection:
    """A path between two models, and its figures.

    Attributes:
        path: see `WeightPath`.
        evaluation: see `PathEvaluation`.
        task, partition: what the models predict, and what was forgotten (`None` where nothing was).
        history: one record for each step of the curve; empty for a straight line.
        original: the model before unlearning, where it is known.
        data: training data, where nothing was forgotten.
        seed: under which pairs were drawn for the evaluation, and are for the dial.
        loader: training items for statistics of batch normalisation; `None` for the retained ones.
    """

    path: WeightPath
    evaluation: PathEvaluation
    task: Task
    partition: Any
    history: list[dict[str, float]] = field(default_factory=list)
    original: nn.Module | None = None
    data: Any = None
    seed: int = 0
    loader: Any = None

    @property
    def dial(self) -> Dial:
        """Return the path as a dial, from the first model to the second."""
        return Dial(self.path, self.task, self.partition, self.data, self.seed, self.original, self.loader)

    @property
    def connected(self) -> bool | None:
        """See `PathEvaluation.connected`."""
        return self.evaluation.connected

    def table(self) -> str:
        """Return the table of the evaluation."""
        return self.evaluation.table()

    def plot(self, path: str | Path) -> Path:
        """Write the picture of the evaluation."""
        return self.evaluation.plot(path)

    def __repr__(self) -> str:
        return f"Connection({self.evaluation.verdict})"
