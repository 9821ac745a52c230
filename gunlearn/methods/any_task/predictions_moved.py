"""How far a run has moved the predictions of some items."""

from typing import Any

from gunlearn.core.modes import evaluating
from gunlearn.losses import Prediction
from gunlearn.losses.divergences import gaussian_js_divergence, js_divergence, js_to_reference
from gunlearn.methods.base import Problem
from gunlearn.methods.forget_part import predict_pieces
from gunlearn.tasks.base import Parts


class Moved:
    """The mean divergence of a model's predictions from those at the start, in nats; labels are not read.

    Args:
        problem: whose model learns.
        parts: of the problem.
        pieces: items, see `forget_pieces`; the same at each look.
    """

    def __init__(self, problem: Problem, parts: Parts, pieces: list[Any]) -> None:
        self.problem, self.parts, self.pieces = problem, parts, pieces
        self.start = self._predicted()

    def far(self) -> float:
        """Return the divergence now."""
        now, start = self._predicted(), self.start
        ours, theirs = now.require("logits").double(), start.require("logits").double()
        if now.gaussian:
            return float(gaussian_js_divergence(ours, theirs).mean())
        if now.bernoulli:
            return float(js_divergence(ours.sigmoid(), theirs.sigmoid()).mean())
        return float(js_to_reference(ours, theirs).mean())

    def _predicted(self) -> Prediction:
        with evaluating(self.problem.model):
            return predict_pieces(self.problem.task, self.problem.model, self.parts, self.pieces)
