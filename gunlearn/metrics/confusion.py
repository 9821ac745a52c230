"""Interclass confusion (arXiv 2201.06640): is one class still taken for the other, as wrong labels taught it?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gunlearn.core.checks import check_integer
from gunlearn.errors import InvalidInputError
from gunlearn.metrics.base import CLASSES, Figure
from gunlearn.metrics.view import ModelView


class ConfusionError(Figure):
    r"""Error on test items of the confused classes, whatever they are taken for (IC-ERR).

    With :math:`C` the confusion matrix of test items and classes `A` and `B`

    .. math:: \frac{\sum_{k \ne A} C_{A,k} + \sum_{k \ne B} C_{B,k}}{n_A + n_B}

    Args:
        classes: at least two class numbers; by default the labels that forgotten items have.
    """

    name, heading, words, part, tasks = "ic_err", "IC-ERR", "error on confused classes", "test", CLASSES
    better, optional = "lower", True

    def __init__(self, classes: Sequence[int] | None = None) -> None:
        for number in classes or ():
            check_integer("classes", number, minimum=0)
        if classes is not None and len(set(classes)) < 2:
            raise InvalidInputError(f"Expected at least two 'classes' that were confused (got {list(classes)})")
        self.classes = None if classes is None else sorted(set(classes))

    def compute(self, view: ModelView) -> float | None:
        counts, chosen = self.counts(view), self.chosen(view)
        if counts is None or chosen is None or not counts.sum():
            return None
        return 1 - float(counts.gather(1, chosen.unsqueeze(1)).sum()) / float(counts.sum())

    def chosen(self, view: ModelView) -> Tensor | None:
        """Return the numbers of the confused classes, `[k]`."""
        label = view.label("forget")
        if self.classes is None:
            return None if label is None else label.long().unique()
        return torch.tensor(self.classes, device=None if label is None else label.device)

    def counts(self, view: ModelView) -> Tensor | None:
        """Return how many items of each confused class are taken for which class, `[k, num_classes]`."""
        probability, label, chosen = view.probability(self.part), view.label(self.part), self.chosen(view)
        if probability is None or label is None or chosen is None:
            return None
        size, rows = probability.size(-1), label.long()
        if int(chosen.max()) >= size:
            raise InvalidInputError(
                f"Expected 'classes' below {size}, which the model tells apart (got {self.classes})"
            )
        counts = torch.bincount(rows * size + probability.argmax(-1), minlength=size * size)
        return counts[: size * size].view(size, size)[chosen]


class RetainConfusionError(ConfusionError):
    """Error on retained training items of the confused classes, whatever they are taken for (IC-ERR)."""

    name, heading, words, part = "ic_err_retain", "IC-ERR retain", "", "retain"


class ConfusedItems(ConfusionError):
    """Number of test items of one confused class that are taken for another of them (FGT-ERR, a count)."""

    name, heading, words, format = "fgt_err", "FGT-ERR", "test items confused", ".1f"

    def compute(self, view: ModelView) -> float | None:
        counts, chosen = self.counts(view), self.chosen(view)
        if counts is None or chosen is None or not counts.sum():
            return None
        among = counts[:, chosen]
        return float(among.sum() - among.diagonal().sum())


class RetainConfusedItems(ConfusedItems):
    """Number of retained training items of one confused class that are taken for another of them (FGT-ERR, a count)."""

    name, heading, words, part = "fgt_err_retain", "FGT-ERR retain", "", "retain"
