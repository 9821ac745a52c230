"""How right a model is about the items' own labels: accuracy and mean probability."""

from gunlearn.metrics.base import CLASSES, LINKS, Figure
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


class ForgetProbability(Figure):
    """Mean probability of the forgotten items' own labels."""

    name, part = "forget_prob", "forget"

    def compute(self, view: ModelView) -> float | None:
        likelihood = view.likelihood(self.part)
        return None if likelihood is None or not likelihood.numel() else float(likelihood.mean())


class RetainProbability(ForgetProbability):
    """Mean probability of the retained edges."""

    name, part, tasks = "retain_prob", "retain", LINKS
