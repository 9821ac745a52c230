"""AUC and average precision (AP) of scores of two sets of items, and the figures that use them."""

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from gunlearn.errors import InvalidInputError
from gunlearn.metrics.base import CLASSES, LINKS, NUMBERS, YES_OR_NO, Figure
from gunlearn.metrics.view import ModelView

Pair = tuple[float | None, float | None]


def separation(positive: Tensor, negative: Tensor) -> Pair:
    """Return AUC and AP of `positive` `[num_positive]` against `negative` `[num_negative]` scores, infinite ones too.

    Both are `None` where one side is empty.

    Raises:
        InvalidInputError: NaN among the scores.
    """
    if positive.numel() == 0 or negative.numel() == 0:
        return None, None
    _refuse_nan(positive, negative)
    score = torch.cat([positive, negative]).double().cpu().numpy()
    score = np.unique(score, return_inverse=True)[1]  # ranks: scikit-learn refuses infinity
    label = np.r_[np.ones(positive.numel()), np.zeros(negative.numel())]
    return float(roc_auc_score(label, score)), float(average_precision_score(label, score))


def forget_separation(forget: Tensor, retain: Tensor, draws: int = 5, seed: int = 0) -> Pair:
    """Return mean AUC and AP of retained (labelled 1) against forgotten edges, over equal-size draws of retained edges.

    A retrained model scores a forgotten edge like any true edge it never saw: near 0.5 where such edges lie like the
    retained ones. A value above the retrained model's means that the edges were pushed down, not only forgotten.

    Args:
        forget: scores of the forgotten edges, `[num_forget]`.
        retain: scores of the retained edges, `[num_retain]`.
        draws: number of draws.
        seed: of the draws.

    Raises:
        InvalidInputError: NaN among the scores.
    """
    _refuse_nan(forget, retain)
    generator = torch.Generator().manual_seed(seed)
    size = min(forget.numel(), retain.numel())
    pairs = [
        separation(retain[torch.randperm(retain.numel(), generator=generator)[:size].to(retain.device)], forget)
        for _ in range(draws)
    ]
    if not pairs or pairs[0][0] is None:
        return None, None
    auc, ap = np.asarray(pairs, dtype=float).mean(axis=0)
    return float(auc), float(ap)


def _refuse_nan(*scores: Tensor) -> None:
    if any(bool(s.isnan().any()) for s in scores):
        raise InvalidInputError("Expected scores without NaN (got some); the model is broken")


class RetainAUC(Figure):
    """AUC of test edges against non-edges."""

    name, heading, words, tasks = "retain_auc", "AUC retain", "retain AUC (test edges)", LINKS
    which = 0  # index into (AUC, AP)

    def compute(self, view: ModelView) -> float | None:
        score, label = view.score("test"), view.label("test")
        if score is None or label is None:
            return None
        return view.once("test separation", lambda: separation(score[label == 1], score[label != 1]))[self.which]


class RetainAP(RetainAUC):
    """Average precision of test edges against non-edges."""

    name, heading, words, which = "retain_ap", "", "", 1


class ForgetAUC(Figure):
    """AUC of retained against forgotten edges.

    Args:
        draws: equal-size draws of retained edges, see `forget_separation`.
    """

    name, heading, words = "forget_auc", "AUC forget", "forget AUC (retained against forgotten edges)"
    tasks, which = LINKS, 0

    def __init__(self, draws: int = 5) -> None:
        self.draws = draws

    def compute(self, view: ModelView) -> float | None:
        forget, retain, key = view.score("forget"), view.score("retain"), ("forget separation", self.draws)
        if forget is None or retain is None:
            return None
        return view.once(key, lambda: forget_separation(forget, retain, self.draws, view.seed))[self.which]


class ForgetAP(ForgetAUC):
    """Average precision of retained against forgotten edges."""

    name, heading, words, which = "forget_ap", "", "", 1


class MembershipAUC(Figure):
    """How well scores tell forgotten items from test items of their class, which the model never saw.

    The simplest membership inference, averaged over classes weighted by their number of forgotten items: over all
    classes at once it would measure the class as well. The two sets may differ in other ways: compare with the value of
    a retrained model, not with one half.
    """

    name, heading, words = "mia_auc", "MIA AUC", "membership inference AUC"
    tasks: tuple[str, ...] = (*LINKS, *CLASSES, *NUMBERS, *YES_OR_NO)
    hidden: tuple[str, ...] = LINKS

    def scores(self, view: ModelView, part: str) -> Tensor | None:
        """Return the attacker's score of each item of a part, `[num_items]`; `None` without items."""
        return view.score(part)

    def compute(self, view: ModelView) -> float | None:
        forget, label = self.scores(view, "forget"), view.label("forget")
        unseen, unseen_label = self.scores(view, "unseen"), view.label("unseen")
        if forget is None or label is None or unseen is None or unseen_label is None:
            return None
        if (label.is_floating_point() and view.task.name in NUMBERS) or label.dim() > 1:  # no classes: all at once
            return separation(forget, unseen)[0]
        total = weight = 0.0
        aucs = []
        for c in label.unique():
            auc, _ = separation(forget[label == c], unseen[unseen_label == c])
            if auc is not None:
                count = float((label == c).sum())
                total, weight = total + count * auc, weight + count
                aucs.append(auc)
        return aucs[0] if len(aucs) == 1 else total / weight if aucs else None
