"""The base class of all losses: it picks its part, checks it, zeroes masked entries and reduces."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from gunlearn.core.checks import check_choice, check_name, check_number, check_same_shape
from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.losses.objective import Composable
from gunlearn.losses.prediction import Prediction
from gunlearn.losses.reduction import PER_ITEM, REDUCTIONS, fit_mask, reduce_values

FieldCheck = Callable[[str, object], None]
POSITIVE: FieldCheck = partial(check_number, positive=True)
NOT_NEGATIVE: FieldCheck = partial(check_number, minimum=0.0)


def one_of(*choices: str) -> FieldCheck:
    """Return the check that refuses anything but these values."""
    return partial(check_choice, choices=choices)


def checked(**checks: FieldCheck) -> Mapping[str, FieldCheck]:
    """Return the checks of a loss's fields, for `Loss.checks`."""
    return MappingProxyType(checks)


@dataclass(frozen=True, repr=False, kw_only=True)
class Loss(Composable, ABC):
    """A number to minimise, computed from a model's predictions on one part of the data.

    A subclass is a frozen dataclass with a `values` method and the class attributes below. Losses compose with `+`,
    `-` and `*` into an `Objective`. A property that is the same for all instances (`reads`, `whole_items`) may be a
    plain class attribute.

    Args:
        on: name of the part of the data this loss reads.
        reduction: `"mean"`, `"sum"`, `"none"` (a value per item, for per-item gradients), and for items of several
            tokens `"token_mean"`, `"seq_mean"` and `"seq_sum"`; see `reduce_values`.

    Attributes:
        name: short name in tables and labels.
        summary: what it does, in a few words.
        paper: title of the paper, or `None`.
        arxiv: its arXiv number, or `None`.
        needs_reference: whether it needs predictions of the model before unlearning.
        bounded_below: whether it has a lower bound.
        level: what it reads: `"item"`, `"token"`, `"embedding"`.
        checks: what is called with the name and the value of a field; not for `None` where that is the default.

    Raises:
        InvalidInputError: an unknown reduction, one over tokens where values are of whole items, or an empty part name.

    Example:
        >>> import torch
        >>> from gunlearn.losses import NLL, Prediction
        >>> retain = Prediction(log_prob=torch.tensor([0.5, 0.5]).log())
        >>> NLL(on="retain")({"retain": retain})
        tensor(0.6931)
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str | None] = None
    arxiv: ClassVar[str | None] = None
    needs_reference: ClassVar[bool] = False
    bounded_below: ClassVar[bool] = True
    level: ClassVar[tuple[str, ...]] = ("item", "token")
    checks: ClassVar[Mapping[str, FieldCheck]] = checked()

    on: str = "forget"
    reduction: str = "mean"

    def __post_init__(self) -> None:
        check_choice("reduction", self.reduction, REDUCTIONS)
        if self.whole_items and self.reduction in ("token_mean", "seq_mean"):
            raise InvalidInputError(
                f"Expected 'reduction' without a mean over tokens for {type(self).__name__}, whose values are of whole "
                f"items (got {self.reduction!r})"
            )
        check_name("on", self.on)
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in self.checks and not (value is None and field.default is None):
                self.checks[field.name](field.name, value)

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the `Prediction` fields that `values` reads."""
        return ("log_prob",)

    @property
    def on_parts(self) -> tuple[str, ...]:
        """Names of the parts whose predictions are read: one, or two where a loss compares them."""
        return (self.on,)

    @property
    def aligned_parts(self) -> tuple[str, ...]:
        """Names of the parts that are compared item by item: item `i` of one with item `i` of the others."""
        return ()

    @property
    def whole_items(self) -> bool:
        """Whether one value stands for all tokens of an item together."""
        return False

    @property
    def per_item(self) -> bool:
        """Whether a mean counts items, not tokens, where items have several tokens."""
        return self.whole_items or self.reduction in PER_ITEM

    def keep(self, mask: Tensor) -> Tensor:
        """Return the mask without the entries that this loss skips; by default it skips none."""
        return mask

    def count(self, mask: Tensor) -> Tensor:
        """The number a mean divides by: tokens kept by the mask `[num_items, num_tokens]`, or items that keep any."""
        mask = self.keep(mask)
        return mask.flatten(1).any(1).sum() if self.per_item and mask.dim() > 1 else mask.sum()

    @property
    def terms(self) -> tuple[tuple[float, Loss], ...]:
        """This loss alone, with weight 1."""
        return ((1.0, self),)

    @property
    def label(self) -> str:
        """Name and part, as in `npo(forget)`."""
        return f"{self.name}({self.on})"

    @abstractmethod
    def values(self, *args: Any, **kwargs: Any) -> Tensor:  # so typed, a subclass may name just what it reads
        """Return one value per item or token, `[num_items]` or shaped like `log_prob`, before masks and weights.

        A subclass defines `values(self, current, reference)`, and two more arguments for each further part of
        `on_parts`. `current` holds the current model's predictions; in `log_prob` and the fields of `reads`, masked
        entries are 0. `reference` holds the reference model's on the same items, without gradient; `None` if not
        needed.
        """

    def __call__(
        self,
        current: Prediction | Mapping[str, Prediction],
        reference: Prediction | Mapping[str, Prediction] | None = None,
        count: Tensor | float | None = None,
    ) -> Tensor:
        """Return the loss on the part `on`: a scalar, or the weighted value of each item for `reduction="none"`.

        Entries masked in either prediction do not count and get exactly zero gradient, whatever they hold. Weights are
        those of `current`. No gradient flows into the reference. NaN among the entries that count stays in the result:
        the training loop refuses it.

        Args:
            current: predictions of the current model: of this part, or a mapping from part names.
            reference: predictions of the reference model, likewise.
            count: what a mean divides by, where these items are one share of a larger batch; see `Loss.count`.

        Raises:
            InvalidInputError: the part, the reference or a field is missing, or shapes disagree.
            InvalidTypeError: `current` or `reference` is neither a prediction nor a mapping of predictions.
        """
        given = [self._clean(part, current, reference) for part in self.on_parts]
        own, mask = given[0][0], given[0][2]
        values = self.values(*(prediction for one in given for prediction in one[:2]))
        if values.shape not in (own.log_prob.shape, own.log_prob.shape[:1]):
            raise InvalidInputError(
                f"Expected {type(self).__name__}.values to return one value per item, "
                f"{tuple(own.log_prob.shape)} (got {tuple(values.shape)})"
            )
        return reduce_values(values, fit_mask(mask, values), own.weight, self.reduction, count)

    def _clean(self, part: str, current: Any, reference: Any) -> tuple[Prediction, Prediction | None, Tensor | None]:
        """Return both predictions of a part with masked entries set to 0, and the mask of both."""
        current = self._pick(current, "current", part)
        reference = self._pick(reference, "reference", part).detach() if self.needs_reference else None
        mask = current.mask
        if reference is not None:
            for name in dict.fromkeys(("log_prob", *self.reads)):
                if name == "label":  # the same for both models
                    continue
                check_same_shape(f"{name} of {self.label}", getattr(current, name), getattr(reference, name))
            if reference.mask is not None:
                mask = reference.mask if mask is None else mask & reference.mask
        if mask is None and type(self).keep is not Loss.keep:  # where nothing is skipped, no mask is made
            mask = torch.ones_like(current.log_prob, dtype=torch.bool)
        mask = None if mask is None else self.keep(mask)
        if reference is not None:
            reference = reference.fill_masked(mask, self.reads)
        return current.fill_masked(mask, self.reads), reference, mask

    def _pick(self, given: Prediction | Mapping[str, Prediction] | None, role: str, part: str) -> Prediction:
        """Return the prediction of a part, checked to hold all fields that this loss reads."""
        if given is None:
            raise InvalidInputError(f"Expected {role} predictions on '{part}' for {self!r} (got None)")
        if isinstance(given, Mapping):
            if part not in given:
                came = ", ".join(map(repr, given)) or "nothing"
                raise InvalidInputError(f"Expected {role} predictions on '{part}' for {self!r} (got {came})")
            given = given[part]
        elif isinstance(given, Prediction) and len(self.on_parts) > 1:
            parts = ", ".join(self.on_parts)
            raise InvalidInputError(f"Expected {role} predictions by part, {parts}, for {self!r} (got one Prediction)")
        if not isinstance(given, Prediction):
            raise InvalidTypeError(
                f"Expected {role} predictions for {self!r} as Prediction or a mapping of them "
                f"(got {type(given).__name__})"
            )
        for name in self.reads:
            if getattr(given, name) is None:
                raise InvalidInputError(
                    f"Expected {role} predictions on '{part}' with '{name}' for {self!r} (got None)"
                )
        return given

    def __repr__(self) -> str:
        """The constructor call: fields that differ from their defaults, and the part unless it is `forget`."""
        shown = {
            f.name: getattr(self, f.name)
            for f in sorted(fields(self), key=lambda f: f.kw_only is True)
            if getattr(self, f.name) != (f.default if f.name != "on" or f.default == "forget" else None)
        }
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"
