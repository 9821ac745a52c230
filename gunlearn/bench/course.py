"""The course of a run over its epochs, for plots."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gunlearn.errors import InvalidInputError
from gunlearn.metrics.base import Evaluator
from gunlearn.seed import isolated_rng
from gunlearn.training.callbacks import Callback

BINS = 40


class Course(Callback):
    """Records the evaluator's headline figures at some epochs; neither the model nor random state notice.

    The points lie densely where a run starts and most happens: before the first epoch, after it, and at equal ratios up
    to the last.

    Args:
        evaluator: of the problem.
        points: about how many.

    Attributes:
        curve: one record per point: `epoch` and both figures (`None` where the model gives NaN).
    """

    def __init__(self, evaluator: Evaluator, points: int = 15) -> None:
        """See the class."""
        self.evaluator, self.points, self.curve = evaluator, points, []
        self._epochs: set[int] = set()

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: nn.Module, **kwargs: Any) -> None:
        """Plan the points; the first is the model as it came."""
        last = max(state.max_epochs, 1)
        self._epochs = {round(epoch) for epoch in np.geomspace(1, last, self.points)} | {last}
        self._record(state.epoch, model)

    def on_epoch_end(self, args: Any, state: Any, control: Any, *, model: nn.Module, **kwargs: Any) -> None:
        """Record where a point was planned."""
        if state.epoch in self._epochs:
            self._record(state.epoch, model)

    def on_train_end(self, args: Any, state: Any, control: Any, *, model: nn.Module, **kwargs: Any) -> None:
        """The last epoch of a run that stopped early was not planned."""
        if self.curve[-1]["epoch"] != state.epoch:
            self._record(state.epoch, model)

    def _record(self, epoch: int, model: nn.Module) -> None:
        with isolated_rng():
            try:
                p = self.evaluator.probabilities(model)
                figures = {**self.evaluator.utility(p), **self.evaluator.forgetting(p)}
            except InvalidInputError:  # NaN: the loop itself says so soon
                figures = {}
        self.curve.append({"epoch": epoch, **{name: figures.get(name) for name, _ in self.evaluator.headline}})


def histogram(probabilities: Tensor) -> list[int]:
    """Counts in `BINS` equal bins of [0, 1]."""
    return [int(n) for n in torch.histc(probabilities.detach().cpu().double(), bins=BINS, min=0.0, max=1.0)]
