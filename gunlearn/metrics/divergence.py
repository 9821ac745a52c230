"""Distance to retrained models, and its noise floor."""

from collections.abc import Iterable
from itertools import combinations

from torch import Tensor

from gunlearn.errors import InvalidInputError
from gunlearn.metrics.base import Figure
from gunlearn.metrics.view import ModelView


class ForgetDivergence(Figure):
    """Jensen-Shannon divergence to retrained models on forgotten items, in nats per item.

    The mean over the retrained models; one of them, or a copy, is compared with the others.

    Raises:
        InvalidInputError: NaN among the probabilities.
    """

    name, heading, floor, part, better = "js_forget", "JS forget", "js_floor_forget", "forget", "lower"

    def compute(self, view: ModelView) -> float | None:
        return mean_divergence(((view, other) for other in view.references), self.part)

    def spec(self, mean: float) -> str:
        return ".4f" if mean >= 5e-4 else ".1e"

    def cell(self, mean: float, std: float | None) -> str:
        return super().cell(mean, std or None)  # a std of 0: two models compared with each other


class HeldOutDivergence(ForgetDivergence):
    """The same divergence on test items."""

    name, heading, floor, part = "js_test", "JS test", "js_floor_test", "test"


class RetainDivergence(ForgetDivergence):
    """The same divergence on retained training items."""

    name, heading, floor, part = "js_retain", "JS retain", "js_floor_retain", "retain"


class ForgetFloor(Figure):
    """Noise floor of js_forget: the mean divergence between two retrained models."""

    name, part = "js_floor_forget", "forget"

    def compute(self, view: ModelView) -> float | None:
        return mean_divergence(combinations(view.problem.references, 2), self.part)


class HeldOutFloor(ForgetFloor):
    """Noise floor of js_test."""

    name, part = "js_floor_test", "test"


class RetainFloor(ForgetFloor):
    """Noise floor of js_retain."""

    name, part = "js_floor_retain", "retain"


def mean_divergence(pairs: Iterable[tuple[ModelView, ModelView]], part: str) -> float | None:
    """Return the divergence of items, averaged over items and pairs of views; `None` without pairs or items."""
    values = []
    for p, q in pairs:
        value = _divergence(p, p.probability(part), q.probability(part))
        if value is None:
            return None
        values.append(value)
    return sum(values) / len(values) if values else None


def _divergence(view: ModelView, p: Tensor | None, q: Tensor | None) -> float | None:
    if p is None or q is None or not p.numel():
        return None
    divergence = float(view.problem.divergence(p, q).mean())
    if divergence != divergence:
        raise InvalidInputError("Expected probabilities without NaN (got some); the model is broken")
    return divergence
