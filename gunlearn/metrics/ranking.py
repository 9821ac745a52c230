"""How well scores tell two sets of items apart; AUC and AP are scikit-learn's."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from gunlearn.errors import InvalidInputError


def separation(positive: Tensor, negative: Tensor) -> tuple[float | None, float | None]:
    """AUC and AP of scores, `positive` against `negative`; `None` where one side is empty. Infinite scores are ranked.

    Args:
        positive: scores of the items labelled 1, `[num_positive]`.
        negative: scores of the items labelled 0, `[num_negative]`.

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


def forget_separation(
    forget: Tensor, retain: Tensor, draws: int = 5, seed: int = 0
) -> tuple[float | None, float | None]:
    """Mean AUC and AP of retained against forgotten edges, over equal-size draws of retained ones.

    Retained edges are labelled 1. A retrained model scores a forgotten edge like any true edge it never saw; where such
    edges lie like the retained ones that is near 0.5. More than the retrained model's own value means that the edges
    were pushed below that, not only forgotten.

    Args:
        forget: scores of the forgotten edges, `[num_forget]`.
        retain: scores of the retained edges, `[num_retain]`.
        draws: number of draws.
        seed: of the draws.

    Raises:
        InvalidInputError: NaN among the scores, drawn or not.
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
