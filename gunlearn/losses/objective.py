"""Weighted sums of losses that compose with `+`, `-` and `*`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

from torch import Tensor

from gunlearn.core.checks import check_number
from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.losses.prediction import Prediction

if TYPE_CHECKING:
    from gunlearn.losses.base import Loss


class Composable:
    """The algebra that losses and objectives share: both are sums of weighted losses."""

    if TYPE_CHECKING:

        @property
        def terms(self) -> tuple[tuple[float, Loss], ...]:
            """Pairs of weight and loss."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts whose current predictions are needed, in order of first use."""
        return tuple(dict.fromkeys(part for _, loss in self.terms for part in loss.on_parts))

    @property
    def reference_parts(self) -> tuple[str, ...]:
        """Names of the parts whose reference predictions are needed, in order of first use."""
        return tuple(dict.fromkeys(part for _, loss in self.terms if loss.needs_reference for part in loss.on_parts))

    def fields(self, part: str) -> tuple[str, ...]:
        """Names of the `Prediction` fields that losses read of a part, `log_prob` first."""
        read = (name for _, loss in self.terms if part in loss.on_parts for name in loss.reads)
        return tuple(dict.fromkeys(("log_prob", *read)))

    def __add__(self, other: object) -> Objective:
        return Objective(self.terms + other.terms) if isinstance(other, Composable) else NotImplemented

    def __radd__(self, other: object) -> Objective:
        """Zero plus a loss is that loss, so that `sum([...])` works."""
        return Objective(self.terms) if isinstance(other, int) and other == 0 else NotImplemented

    def __sub__(self, other: object) -> Objective:
        return self + -other if isinstance(other, Composable) else NotImplemented

    def __neg__(self) -> Objective:
        return -1.0 * self

    def __mul__(self, weight: object) -> Objective:
        """Multiply all weights with a number; tensors are refused, since weights are constants."""
        if not isinstance(weight, Real) or isinstance(weight, bool):
            return NotImplemented
        return Objective(tuple((float(weight) * w, loss) for w, loss in self.terms))

    __rmul__ = __mul__


@dataclass(frozen=True)
class ObjectiveValue:
    """The value of an objective.

    Args:
        total: the weighted sum, a differentiable scalar.
        terms: each loss's own value by its label (`"npo(forget)"`), unweighted and detached.
    """

    total: Tensor
    terms: dict[str, Tensor]


@dataclass(frozen=True, repr=False)
class Objective(Composable):
    """A weighted sum of losses, each on its own part of the data.

    Args:
        terms: pairs of weight and loss. Weights may be negative (gradient difference), not NaN or infinite.

    Raises:
        InvalidInputError: no terms, a weight that is not finite, or a loss with `reduction="none"`.
        InvalidTypeError: a term that is no loss.

    Example:
        >>> from gunlearn.losses import NLL, NPO
        >>> objective = NPO(beta=5) + 0.5 * NLL(on="retain")
        >>> objective
        NPO(beta=5) + 0.5 * NLL(on='retain')
        >>> objective.parts, objective.reference_parts
        (('forget', 'retain'), ('forget',))
    """

    terms: tuple[tuple[float, Loss], ...]

    def __post_init__(self) -> None:
        if not self.terms:
            raise InvalidInputError("Expected an objective with at least one loss (got none)")
        for weight, loss in self.terms:
            if not isinstance(loss, Composable) or isinstance(loss, Objective):
                raise InvalidTypeError(f"Expected a Loss in an objective (got {type(loss).__name__})")
            check_number(f"weight of {loss!r}", weight)
            if loss.reduction == "none":
                raise InvalidInputError(f"Expected a loss that reduces to one number (got {loss!r})")

    @property
    def labels(self) -> tuple[str, ...]:
        """One label per term, unique: a repeated one gets the suffix `#2`, `#3`, ..."""
        seen: dict[str, int] = {}
        labels = []
        for _, loss in self.terms:
            seen[loss.label] = count = seen.get(loss.label, 0) + 1
            labels.append(loss.label if count == 1 else f"{loss.label}#{count}")
        return tuple(labels)

    def __call__(
        self,
        current: Prediction | Mapping[str, Prediction],
        reference: Prediction | Mapping[str, Prediction] | None = None,
        counts: Sequence[Tensor | float] | None = None,
    ) -> ObjectiveValue:
        """Evaluate all terms; the total may be NaN or infinite, which the training loop refuses.

        Args:
            current: predictions of the current model by part; for an objective of one part, also its prediction alone.
            reference: predictions of the reference model by part, for `reference_parts`.
            counts: what each term's mean divides by (see `Loss.count`), where these items are one share of a larger
                batch; the values of the shares then add up to that of the whole.

        Raises:
            InvalidInputError: a part or a field is missing, or shapes disagree.
        """
        for given, needed in ((current, self.parts), (reference, self.reference_parts)):
            if isinstance(given, Prediction) and len(needed) > 1:
                raise InvalidInputError(f"Expected a mapping with the parts {', '.join(needed)} (got one Prediction)")
        divisors = [None] * len(self.terms) if counts is None else counts
        values = [loss(current, reference, n) for (_, loss), n in zip(self.terms, divisors, strict=True)]
        weighted = [weight * value for (weight, _), value in zip(self.terms, values, strict=True)]
        total = sum(weighted[1:], start=0 + weighted[0])  # 0 + makes -0.0 a plain 0.0
        return ObjectiveValue(total, {k: v.detach() for k, v in zip(self.labels, values, strict=True)})

    def __repr__(self) -> str:
        """The expression that builds this objective, without a leading weight of 1."""
        texts = [f"{weight!r} * {loss!r}" for weight, loss in self.terms]
        # A lone loss keeps its weight: without it the text would read as a Loss, not as an Objective.
        return " + ".join(texts).removeprefix("1.0 * ") if len(texts) > 1 else texts[0]


def as_objective(value: Loss | Objective) -> Objective:
    """Return a loss as an objective of one term, an objective unchanged; anything else raises `InvalidTypeError`.

    Example:
        >>> from gunlearn.losses import NLL, as_objective
        >>> as_objective(NLL(on="retain")).parts
        ('retain',)
    """
    if not isinstance(value, Composable):
        raise InvalidTypeError(f"Expected a Loss or an Objective (got {type(value).__name__})")
    return value if isinstance(value, Objective) else Objective(value.terms)


def weighted(*terms: tuple[float, Loss]) -> Objective:
    """Return the objective of the terms whose weight is not 0."""
    return Objective(tuple((float(weight), loss) for weight, loss in terms if weight))
