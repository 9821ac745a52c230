"""Accuracy of classifiers."""

from __future__ import annotations

from gunlearn.metrics.base import CLASSES, Figure
from gunlearn.metrics.view import ModelView


class HeldOutAccuracy(Figure):
    """Share of test items whose likeliest class is their own."""

    name, heading, words = "test_acc", "acc. test", "test accuracy"
    legend = "accuracy on test items"
    tasks, part = CLASSES, "test"

    def compute(self, view: ModelView) -> float | None:
        probability, label = view.probability(self.part), view.label(self.part)
        if probability is None or label is None or not probability.size(0):
            return None
        return float((probability.argmax(-1) == label).double().mean())


class RetainAccuracy(HeldOutAccuracy):
    """The same for the training items that stay."""

    name, heading, words, part = "retain_acc", "", "", "retain"
    legend = "accuracy on retained training items"


class ForgetAccuracy(HeldOutAccuracy):
    """The same for forgotten items, as the original data show them."""

    name, heading, words, part = "forget_acc", "acc. forget", "", "forget"
    legend = "accuracy on forgotten items, read on the original data"
