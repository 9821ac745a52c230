"""Figures over the epochs of a run, for plots."""

from typing import Any

import numpy as np
from torch import nn

from gunlearn.errors import InvalidInputError
from gunlearn.metrics.problem import Evaluator
from gunlearn.seed import isolated_rng
from gunlearn.training.callbacks import Callback


class Course(Callback):
    """Record the evaluator's headline figures at some epochs; the model and the random state stay as they are.

    The points are the start, the first epoch, and further epochs at equal ratios up to the last: most happens early.

    Args:
        evaluator: of the problem.
        points: their number, about.

    Attributes:
        curve: one record per point: `epoch` and both figures (`None` where the model gives NaN).
    """

    def __init__(self, evaluator: Evaluator, points: int = 15) -> None:
        self.evaluator, self.points = evaluator, points
        self.curve: list[dict[str, Any]] = []
        self._epochs: set[int] = set()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        last = max(state.max_epochs, 1)
        self._epochs = {round(epoch) for epoch in np.geomspace(1, last, self.points)} | {last}
        self._record(state.epoch, kwargs["model"])

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.epoch in self._epochs:
            self._record(state.epoch, kwargs["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.curve[-1]["epoch"] != state.epoch:  # the run stopped early
            self._record(state.epoch, kwargs["model"])

    def _record(self, epoch: int, model: nn.Module) -> None:
        with isolated_rng():
            view, names = self.evaluator.view(model), self.evaluator.headline
            try:
                figures = {name: view[name] for name in names}
            except InvalidInputError:  # NaN: the loop will raise it
                figures = dict.fromkeys(names)
        self.curve.append({"epoch": epoch, **figures})
