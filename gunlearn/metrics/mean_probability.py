"""Mean probability that a model gives to the labels of items."""

from __future__ import annotations

from gunlearn.metrics.base import LINKS, Figure
from gunlearn.metrics.view import ModelView


class ForgetProbability(Figure):
    """Mean probability of the forgotten items' own labels."""

    name, part = "forget_prob", "forget"

    def compute(self, view: ModelView) -> float | None:
        likelihood = view.likelihood(self.part)
        return None if likelihood is None or not likelihood.numel() else float(likelihood.mean())


class RetainProbability(ForgetProbability):
    """Mean probability of the retained edges."""

    name, part, tasks = "retain_prob", "retain", LINKS
