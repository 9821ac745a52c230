"""Regression: its evaluator, and how near predictions are to the items' own numbers."""

from typing import ClassVar, cast

import torch
from sklearn.metrics import mean_squared_error, r2_score
from torch import Tensor

from gunlearn.losses import Prediction
from gunlearn.losses.divergences import gaussian_js_divergence
from gunlearn.metrics.base import NUMBERS, Figure
from gunlearn.metrics.graph_evaluators import ClassEvaluator
from gunlearn.metrics.problem import logits_of
from gunlearn.metrics.view import ModelView
from gunlearn.tasks.graph.regression import NodeRegression


class NumberEvaluator(ClassEvaluator):
    """Regression on nodes or graphs; the sets of items are those of `ClassEvaluator`.

    `probability` holds the means in units of the task's scale `[num_items, num_targets]`, `likelihood` the density at
    the truth as a share of the largest, `score` its logarithm.
    """

    headline: ClassVar = ("test_r2", "mia_auc")
    task: NodeRegression

    def probability(self, prediction: Prediction) -> Tensor:
        return logits_of(prediction).double()

    def divergence(self, p: Tensor, q: Tensor) -> Tensor:
        return gaussian_js_divergence(p, q)

    def skills(self, view: ModelView) -> tuple[float | None, ...]:
        """Return R2."""
        return (_r2(view, "retain"),)


class HeldOutR2(Figure):
    """R2 on test items, averaged over targets."""

    name, heading, words, part, tasks = "test_r2", "R2 test", "test R2", "test", NUMBERS

    def compute(self, view: ModelView) -> float | None:
        return _r2(view, self.part)


class HeldOutError(Figure):
    """Mean squared error on test items, in the labels' own units, averaged over targets."""

    name, heading, words, part, tasks = "test_mse", "MSE test", "test mean squared error", "test", NUMBERS

    def compute(self, view: ModelView) -> float | None:
        columns = _columns(view, self.part)
        return sum(float(mean_squared_error(*pair)) for pair in columns) / len(columns) if columns else None

    def spec(self, mean: float) -> str:
        return ".3g"


def _r2(view: ModelView, part: str) -> float | None:
    columns = _columns(view, part)
    if not columns or min(truth.numel() for truth, _ in columns) < 2:
        return None
    return sum(float(r2_score(truth, found)) for truth, found in columns) / len(columns)


def _columns(view: ModelView, part: str) -> list[tuple[Tensor, Tensor]]:
    """Return truth and prediction of each target, over the items where it is known; targets without any left out."""
    means, truth = view.probability(part), view.label(part)
    if means is None or truth is None:
        return []
    found = means * cast(NodeRegression, view.task).unit(means)
    pairs = zip(truth.view(found.shape).double().t(), found.t(), strict=True)
    known = [(y[~y.isnan()].cpu(), z[~y.isnan()].cpu()) for y, z in pairs]
    return [(y, z) for y, z in known if y.numel() and bool(torch.isfinite(z).all())]
