"""Yes-or-no labels: their evaluator, and how right a model is about test items."""

import math
from typing import ClassVar

import torch
from sklearn.metrics import f1_score
from torch import Tensor

from gunlearn.losses import Prediction
from gunlearn.losses.divergences import js_divergence
from gunlearn.losses.functional import mean_tokens
from gunlearn.metrics.base import YES_OR_NO, Figure
from gunlearn.metrics.graph_evaluators import ClassEvaluator
from gunlearn.metrics.problem import logits_of
from gunlearn.metrics.ranking import separation
from gunlearn.metrics.view import ModelView


class LabelEvaluator(ClassEvaluator):
    """Yes-or-no labels of nodes or graphs; the sets of items are those of `ClassEvaluator`.

    `probability` is of "yes" `[num_items]`, or `[num_items, num_labels]`; `likelihood`, `score` and divergences are
    means over an item's labels (of likelihoods, the geometric mean over known ones).
    """

    headline: ClassVar = ("test_roc_auc", "mia_auc")

    def probability(self, prediction: Prediction) -> Tensor:
        return logits_of(prediction).double().sigmoid()

    def likelihood(self, prediction: Prediction) -> Tensor:
        return self.score(prediction).exp()

    def score(self, prediction: Prediction) -> Tensor:
        return mean_tokens(prediction.log_prob.double(), prediction.mask)

    def divergence(self, p: Tensor, q: Tensor) -> Tensor:
        return js_divergence(p, q).unsqueeze(-1).flatten(1).mean(1)

    def skills(self, view: ModelView) -> tuple[float | None, ...]:
        """Return ROC-AUC, and the mean log-likelihood as a share of what a guess of one half lacks."""
        auc, score = _mean_auc(view, "retain"), view.score("retain")
        likelihood = None if score is None or not score.numel() else 1 + float(score.mean()) / math.log(2)
        return None if auc is None else 2 * auc - 1, likelihood


class HeldOutAUC(Figure):
    """ROC-AUC on test items, averaged over the labels that have both values there."""

    name, heading, words, part, tasks = "test_roc_auc", "AUC test", "test ROC-AUC", "test", YES_OR_NO

    def compute(self, view: ModelView) -> float | None:
        return _mean_auc(view, self.part)


class HeldOutF1(Figure):
    """F1 on test items over all labels together, of "yes" above a probability of one half."""

    name, heading, words, part, tasks = "test_f1", "F1 test", "test F1", "test", YES_OR_NO

    def compute(self, view: ModelView) -> float | None:
        columns = _columns(view, self.part)
        if not columns:
            return None
        y, z = (torch.cat(both) for both in zip(*columns, strict=True))
        return float(f1_score(y == 1, z > 0, zero_division=0.0))


def _mean_auc(view: ModelView, part: str) -> float | None:
    found = [separation(z[y == 1], z[y == 0])[0] for y, z in _columns(view, part)]
    known = [auc for auc in found if auc is not None]
    return sum(known) / len(known) if known else None


def _columns(view: ModelView, part: str) -> list[tuple[Tensor, Tensor]]:
    """Return the values and the logits of each label, over the items where it is known."""
    prediction, y = view.predictions[part], view.label(part)
    if prediction is None or y is None:
        return []
    logits, y = (t.unsqueeze(-1).flatten(1).double().cpu() for t in (logits_of(prediction), y))
    known = (y == 0) | (y == 1)
    return [(a[k], b[k]) for a, b, k in zip(y.t(), logits.t(), known.t(), strict=True)]
