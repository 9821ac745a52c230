"""Accuracy of classifiers."""

from __future__ import annotations

from gunlearn.metrics.base import CLASSES, Figure
from gunlearn.metrics.view import ModelView


class HeldOutAccuracy(Figure):
    """Accuracy on test items."""

    name, heading, words, part, tasks = "test_acc", "acc. test", "test accuracy", "test", CLASSES

    def compute(self, view: ModelView) -> float | None:
        probability, label = view.probability(self.part), view.label(self.part)
        if probability is None or label is None or not probability.size(0):
            return None
        return float((probability.argmax(-1) == label).double().mean())


class RetainAccuracy(HeldOutAccuracy):
    """Accuracy on retained training items."""

    name, heading, words, part = "retain_acc", "", "", "retain"


class ForgetAccuracy(HeldOutAccuracy):
    """Accuracy on forgotten items, as the original data show them."""

    name, heading, words, part = "forget_acc", "acc. forget", "", "forget"
