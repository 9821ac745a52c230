"""How far a run has moved the predictions of some items."""

from __future__ import annotations

from typing import Any

import torch

from gunlearn.core.modes import evaluating
from gunlearn.losses import Prediction
from gunlearn.losses.divergences import gaussian_js_divergence, js_divergence, js_to_reference
from gunlearn.methods.base import Problem
from gunlearn.methods.forget_part import forget_pieces, predict_pieces
from gunlearn.tasks.base import Parts

_MOST = 1000  # retained items


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

    @classmethod
    def forgotten(cls, problem: Problem, parts: Parts, batch_size: int | None) -> Moved:
        """Return how far the forgotten items have moved, read `batch_size` at a time where each is predicted alone."""
        return cls(problem, parts, forget_pieces(problem.task, parts, batch_size))

    @classmethod
    def retained(cls, problem: Problem, parts: Parts) -> Moved:
        """Return how far a thousand retained items at most have moved, evenly spread over all."""
        items = parts.sample(["retain"])["retain"]
        if items.num_items > _MOST:
            items = items.take(torch.linspace(0, items.num_items - 1, _MOST).long())
        return cls(problem, parts, [items])

    def far(self) -> float:
        """Return the divergence now; 0 under a task without logits, whose predictions nothing compares."""
        now, start = self._predicted(), self.start
        if now.logits is None:
            return 0.0
        ours, theirs = now.require("logits").double(), start.require("logits").double()
        if now.gaussian:
            return float(gaussian_js_divergence(ours, theirs).mean())
        if now.bernoulli:
            return float(js_divergence(ours.sigmoid(), theirs.sigmoid()).mean())
        return float(js_to_reference(ours, theirs).mean())

    def _predicted(self) -> Prediction:
        with evaluating(self.problem.model):
            return predict_pieces(self.problem.task, self.problem.model, self.parts, self.pieces)
