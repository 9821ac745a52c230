"""The basic membership inference attack of unlearning papers: a logistic regression on losses."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score
from torch import Tensor

from gunlearn.metrics.base import CLASSES, Figure
from gunlearn.metrics.view import ModelView

_CLIP = 100.0
_SPLITS = 5
_DRAWS = 10  # of the side that has more items


class BasicAttack(Figure):
    """Accuracy at which an attacker tells forgotten from test items of their class by the loss; one half is no attack.

    SCRUB's basic attack (arXiv 2302.09880): a logistic regression on the losses of equally many forgotten and test
    items, cross-validated over five random splits. Losses are cut to [-100, 100]. Here both sides have the same number
    of items of each class, else the attack measures the class; the mean over ten draws of them is less noisy. The
    attack finds forgotten items that are *less* likely than test items too.
    """

    name, heading, words = "mia_acc", "MIA acc.", "accuracy of the basic membership attack"
    tasks, optional = CLASSES, True

    def compute(self, view: ModelView) -> float | None:
        generator = torch.Generator().manual_seed(view.seed)
        found = []
        for draw in range(_DRAWS):
            sides = matched(view, generator)
            if sides is None or min(side.numel() for side in sides) < _SPLITS:
                return None
            loss = torch.cat(sides).neg().clamp(-_CLIP, _CLIP).double().cpu().numpy().reshape(-1, 1)
            member = np.repeat([1, 0], sides[0].numel())
            held_out = max(2, math.ceil(0.1 * member.size))  # one of each side at least
            splits = StratifiedShuffleSplit(_SPLITS, test_size=held_out, random_state=view.seed + draw)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of losses that are all equal
                found += list(cross_val_score(LogisticRegression(), loss, member, cv=splits, scoring="accuracy"))
        return float(np.mean(found))


def matched(view: ModelView, generator: torch.Generator) -> tuple[Tensor, Tensor] | None:
    """Return log-likelihoods of forgotten and of unseen items, equally many of each class `[k]`; `None` without any."""
    score, label = view.score("forget"), view.label("forget")
    unseen, unseen_label = view.score("unseen"), view.label("unseen")
    if score is None or label is None or unseen is None or unseen_label is None:
        return None
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    for c in label.unique():
        both = score[label == c], unseen[unseen_label == c]
        size = min(values.numel() for values in both)
        for side, values in zip(sides, both, strict=True):
            side.append(values[torch.randperm(values.numel(), generator=generator)[:size].to(values.device)])
    return torch.cat(sides[0]), torch.cat(sides[1])
