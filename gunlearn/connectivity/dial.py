"""A dial between two models: any point of a stored path, one that is chosen, or the mean along it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from gunlearn.connectivity.along_path import evaluate_path
from gunlearn.connectivity.ends_of_paths import module_of, modules_of
from gunlearn.connectivity.part_losses import PartLosses
from gunlearn.connectivity.path_evaluation import GRID_POINTS
from gunlearn.connectivity.weight_paths import WeightPath
from gunlearn.core.checks import check_integer, check_number
from gunlearn.errors import InvalidInputError, InvalidTypeError, UnsupportedMethodError
from gunlearn.methods.any_task.whole_classes import classes_that_go, node_classes_that_go
from gunlearn.metrics.base import Figure
from gunlearn.metrics.problem import evaluator
from gunlearn.tasks.base import Task
from gunlearn.tasks.named import as_task
from gunlearn.tasks.trial import plain_copy


class Dial:
    """Turns a path, such as a curve from the original model (0) to an unlearned one (1), into models.

    Args:
        path: see `WeightPath`; its ends and bends are all that is kept.
        task: what the models predict.
        partition: what was forgotten; models are chosen by what stays. `None` where nothing was: then `data` is given.
        data: training data, where there is no partition.
        seed: of drawn pairs, for the loss of links.
        original: the model before unlearning, for figures that compare with it; by default the path's first one.
        loader: training items for statistics of batch normalisation, see `PartLosses`.
    """

    def __init__(
        self,
        path: WeightPath,
        task: str | Task,
        partition: Any,
        data: Any = None,
        seed: int = 0,
        original: Any = None,
        loader: Any = None,
    ) -> None:
        task = as_task(task)
        self.path, self.task, self.partition, self.data, self.seed = path, task, partition, data, seed
        self.original, self.loader = None if original is None else module_of(original), loader
        if not isinstance(path, WeightPath):
            raise InvalidTypeError(f"Expected a path for a dial (got {type(path).__name__})")
        self.losses = PartLosses(task, partition, task.adopt(plain_copy(path.template)), data, seed, loader)

    def at(self, t: float) -> nn.Module:
        """Return a new model with the weights at `t`, in evaluation mode."""
        return self.path.model_at(t, self.losses.recompute)

    def mean(self, low: float = 0.0, high: float = 1.0, points: int = 21) -> nn.Module:
        """Return a new model with the mean of the weights along a part of the path (see `WeightPath.mean`)."""
        return self.path.model_at(self.path.mean(low, high, points), self.losses.recompute)

    def figures(
        self, model: nn.Module, metrics: str | Figure | Iterable[str | Figure] = (), references: Any = ()
    ) -> dict[str, float | None]:
        """Return losses and figures of one of the dial's models, as in a row of an evaluation.

        `metrics=["relearn_steps"]` says how fast it learns again what was forgotten, beside retrained `references`.
        """
        if not isinstance(model, nn.Module):
            raise InvalidTypeError(f"Expected a model, such as dial.at(0.5) (got {type(model).__name__})")
        found = {f"loss_{name}": value for name, value in self.losses.losses(model).items()}
        if self.partition is None:
            return found
        judge = evaluator(self.task, self.partition, modules_of(references, self.partition), self.seed, metrics)
        judge.original = self.path.model_at(0) if self.original is None else self.original
        return {**found, **judge.row(model)}

    def choose(self, slack: float = 0.05, points: int = GRID_POINTS, references: Any = ()) -> float:
        """Return the point farthest from the first model that keeps what the first model knows.

        Only retained and validation items are read: at the point, and at every one before it, neither loss is more than
        `slack` nats above the first model's. Validation items of a class that goes as a whole do not count: a model
        that never saw the class gets them wrong. With models that were trained without the forgotten items, of these
        points the one whose predictions on forgotten items are nearest to theirs (`alignment_forget`).

        Args:
            slack: in nats, at least 0. With batch normalisation all points, the ends included, have statistics that are
                computed anew, as in an evaluation.
            points: equally spaced points to try.
            references: models (or results) trained without the forgotten items, or one.

        Raises:
            InvalidTypeError: references that are none.
            UnsupportedMethodError: references, and a task without that figure or no forgotten items.
            DivergenceError: a loss on the way is NaN or infinite.
        """
        check_number("slack", slack, minimum=0.0)
        check_integer("points", points, minimum=2)
        references = modules_of(references, self.partition)
        model = self.task.adopt(plain_copy(self.path.template))
        of = self.partition
        gone = [] if of is None else classes_that_go(self.task, of) + node_classes_that_go(self.task, of)
        judged = "retain", self.losses.without_classes("val", gone)
        kept: list[float] = []
        first: dict[str, float] = {}
        for t in (k / (points - 1) for k in range(points)):
            self.path.put(model, t, self.losses.recompute, at_ends=True)
            losses = self.losses.losses(model, judged)
            found = {name: value for name, value in losses.items() if value is not None}
            if not found:
                raise InvalidInputError("Expected retained items to choose a point by (got none)")
            first = first or found
            if any(found[name] > first[name] + slack for name in first):
                break
            kept.append(t)
        return self._nearest(kept, references) if references else kept[-1]

    def _nearest(self, ts: list[float], references: list[nn.Module]) -> float:
        """Return the point whose predictions on forgotten items are nearest to those of references."""
        points = sorted({*ts, 0.5, 1.0})  # an evaluation has both ends and at least one point between them
        found = evaluate_path(
            self.path, self.task, self.partition, points=points, references=references, metrics=["alignment_forget"],
            data=self.data, seed=self.seed, loader=self.loader,
        )  # fmt: skip
        distance = {row["t"]: row.get("alignment_forget") for row in found.rows if row["t"] in ts}
        known = {t: value for t, value in distance.items() if value is not None}
        if not known:
            raise UnsupportedMethodError(
                f"Expected forgotten items of which '{self.task.name}' has a distance to 'references' (got none)"
            )
        return min(known, key=lambda t: known[t])
