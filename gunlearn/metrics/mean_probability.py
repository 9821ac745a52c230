"""Mean probability that a model gives to the labels of items."""

from __future__ import annotations

from gunlearn.metrics.base import LINKS, Figure
from gunlearn.metrics.view import ModelView


class ForgetProbability(Figure):
    """Mean over forgotten items of the probability of their own label."""

    name, part = "forget_prob", "forget"
    legend = "mean probability of the forgotten items' own labels"

    def compute(self, view: ModelView) -> float | None:
        likelihood = view.likelihood(self.part)
        return None if likelihood is None or not likelihood.numel() else float(likelihood.mean())


class RetainProbability(ForgetProbability):
    """Mean over retained edges of their probability."""

    name, part, tasks = "retain_prob", "retain", LINKS
    legend = "mean probability of the retained edges"
