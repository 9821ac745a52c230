"""Functional alignment (FADE) of classifiers and of models of edges, in closed form; see `gunlearn.metrics.alignment`.

What such a model says of an item is a distribution: over classes, or over edge and no edge. A label that it samples has
the other model's likelihood, so that the divergence both ways is a sum over classes, and nothing needs to be drawn.
"""

from itertools import combinations

from gunlearn.metrics.alignment import Alignment, bernoulli_alignment, categorical_alignment
from gunlearn.metrics.base import CLASSES, LINKS, Figure
from gunlearn.metrics.standing import Standing
from gunlearn.metrics.view import ModelView


def prediction_standing(view: ModelView, part: str, confidence: float | None = 0.95) -> Standing | None:
    """Return how near a model's predictions are to those of the retrained models; `None` without them or without items.

    The untouched model, which `gain` compares with, reads the same data as all others: on graphs it is `utu`, the
    original weights on the retained graph. Intervals are over items, as if these were independent.

    Args:
        view: of the model; one that is among the retrained models, or a copy, is compared with the others.
        part: `"forget"`, `"test"` or `"retain"`.
        confidence: of the intervals; `None` for no intervals, which cost more than all the rest.

    Raises:
        InvalidInputError: NaN among the predictions.
    """

    def compute() -> Standing | None:
        found = _aligned(view, view.references, part)
        return Standing.of(found, alignment_floor(view, part), _before(view, part), confidence) if found else None

    return view.once(("standing", part, confidence), compute)


def alignment_floor(view: ModelView, part: str) -> float | None:
    """Return the mean alignment of two retrained models, the noise floor; `None` with fewer than two."""
    references = view.problem.references

    def compute() -> float | None:
        pairs = [alignment for p, q in combinations(references, 2) for alignment in _aligned(p, [q], part)]
        return sum(pair.value for pair in pairs) / len(pairs) if pairs else None

    return references[0].once(("alignment floor", part), compute) if references else None


def _before(view: ModelView, part: str) -> list[Alignment]:
    """Return the untouched model's alignment with the references of this view; none where it is not known."""
    untouched, references = view.problem.untouched, view.references
    if untouched is None:
        return []
    key = ("alignment", tuple(id(other) for other in references), part)
    return untouched.once(key, lambda: _aligned(untouched, references, part))


def _aligned(view: ModelView, references: list[ModelView], part: str) -> list[Alignment]:
    """Return the alignment with each reference, of a part that has items."""
    found, own = [], view.shown(part)
    for other in references:
        theirs = other.shown(part)
        if own is not None and theirs is not None and own.size(0):
            found.append((bernoulli_alignment if own.dim() == 1 else categorical_alignment)(own, theirs, None))
    return found


class ForgetAlignment(Figure):
    """KL divergence to retrained models both ways (FADE) on forgotten items, in nats per item."""

    name, heading, floor, part = "alignment_forget", "alignment forget", "alignment_floor_forget", "forget"
    tasks, better, optional = (*LINKS, *CLASSES), "lower", True

    def compute(self, view: ModelView) -> float | None:
        found = prediction_standing(view, self.part, None)
        return None if found is None else found.value

    def spec(self, mean: float) -> str:
        return ".3g"


class HeldOutAlignment(ForgetAlignment):
    """The same divergence both ways on test items."""

    name, heading, floor, part = "alignment_test", "alignment test", "alignment_floor_test", "test"


class RetainAlignment(ForgetAlignment):
    """The same divergence both ways on retained training items."""

    name, heading, floor, part = "alignment_retain", "alignment retain", "alignment_floor_retain", "retain"


class ForgetAlignmentFloor(Figure):
    """Noise floor of alignment_forget: the mean alignment of two retrained models."""

    name, part, tasks, optional = "alignment_floor_forget", "forget", (*LINKS, *CLASSES), True

    def compute(self, view: ModelView) -> float | None:
        return alignment_floor(view, self.part)


class HeldOutAlignmentFloor(ForgetAlignmentFloor):
    """Noise floor of alignment_test."""

    name, part = "alignment_floor_test", "test"


class RetainAlignmentFloor(ForgetAlignmentFloor):
    """Noise floor of alignment_retain."""

    name, part = "alignment_floor_retain", "retain"


class ForgetGain(Figure):
    """Share of the untouched model's alignment_forget that is gone; below 0 the model moved away from retraining."""

    name, heading, part = "gain_forget", "gain forget", "forget"
    tasks, better, optional, format = (*LINKS, *CLASSES), "higher", True, ".3g"

    def compute(self, view: ModelView) -> float | None:
        found = prediction_standing(view, self.part, None)
        return None if found is None else found.gain


class HeldOutGain(ForgetGain):
    """The same share on test items."""

    name, heading, part = "gain_test", "gain test", "test"


class RetainGain(ForgetGain):
    """The same share on retained training items."""

    name, heading, part = "gain_retain", "gain retain", "retain"


class ForgetGainLow(ForgetGain):
    """Lower end of the 95 % bootstrap interval of gain_forget over items."""

    name, heading, end = "gain_low_forget", "gain forget, low", 0

    def compute(self, view: ModelView) -> float | None:
        found = prediction_standing(view, self.part)
        return None if found is None or found.gain_interval is None else found.gain_interval[self.end]


class ForgetGainHigh(ForgetGainLow):
    """Upper end of that interval."""

    name, heading, end = "gain_high_forget", "gain forget, high", 1
