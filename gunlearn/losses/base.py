"""The base class of all losses: picks its part, checks it, cleans what is masked, reduces."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from gunlearn.core.checks import check_choice, check_name, check_same_shape
from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.losses.objective import Composable
from gunlearn.losses.prediction import Prediction
from gunlearn.losses.reduction import PER_ITEM, REDUCTIONS, fit_mask, reduce_values


@dataclass(frozen=True, repr=False, kw_only=True)
class Loss(Composable, ABC):
    """A number to minimise, computed from what a model predicts on one part of the data.

    A subclass is a frozen dataclass with a `values` method and the class attributes below. Losses compose with `+`,
    `-` and `*` into an `Objective`.

    Args:
        on: name of the part of the data this loss reads.
        reduction: `"mean"`, `"sum"`, `"none"` (a value per item, for per-item gradients), and for items of several
            tokens `"token_mean"`, `"seq_mean"` and `"seq_sum"`; see `reduce_values`.

    Attributes:
        name: short name in tables and labels.
        summary: what it does, in a few words.
        paper: title of the paper, or `None`.
        arxiv: its arXiv number, or `None`.
        needs_reference: whether predictions of the model before unlearning are needed.
        bounded_below: whether minimising it can not run away to minus infinity.
        level: what it reads: `"item"`, `"token"`, `"embedding"`.

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

    on: str = "forget"
    reduction: str = "mean"

    def __post_init__(self) -> None:
        """Check the fields that all losses share."""
        check_choice("reduction", self.reduction, REDUCTIONS)
        if self.whole_items and self.reduction in ("token_mean", "seq_mean"):
            raise InvalidInputError(
                f"Expected 'reduction' without a mean over tokens for {type(self).__name__}, whose values are of whole "
                f"items (got {self.reduction!r})"
            )
        check_name("on", self.on)

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the `Prediction` fields that `values` reads."""
        return ("log_prob",)

    @property
    def on_parts(self) -> tuple[str, ...]:
        """Names of all parts whose predictions are read; one, unless a loss compares two."""
        return (self.on,)

    @property
    def aligned_parts(self) -> tuple[str, ...]:
        """Names of the parts that are compared item by item: item `i` of each belongs to item `i` of the others."""
        return ()

    @property
    def whole_items(self) -> bool:
        """Whether a value is of all tokens of an item together."""
        return False

    @property
    def per_item(self) -> bool:
        """Whether a mean counts items rather than tokens, where items have several."""
        return self.whole_items or self.reduction in PER_ITEM

    def keep(self, mask: Tensor) -> Tensor:
        """Which of the entries that a mask keeps this loss reads: all of them, unless it skips some."""
        return mask

    def count(self, mask: Tensor) -> Tensor:
        """What a mean divides by: the tokens that the mask `[num_items, num_tokens]` keeps, or the items with any."""
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
    def values(self, current: Prediction, reference: Prediction | None, *others: Prediction | None) -> Tensor:
        """One value per item (or token), before masks and weights.

        Args:
            current: predictions of the current model; in `log_prob` and the fields of `reads`, masked entries are 0.
            reference: predictions of the reference model on the same items, without gradient; `None` if not needed.
            others: the same two for each further part of `on_parts`.

        Returns:
            `[num_items]` or the shape of `log_prob`.
        """

    def __call__(
        self,
        current: Prediction | Mapping[str, Prediction],
        reference: Prediction | Mapping[str, Prediction] | None = None,
        count: Tensor | float | None = None,
    ) -> Tensor:
        """Evaluate on the part `on`.

        Entries masked in either prediction take no part and get exactly zero gradient, whatever they hold; weights are
        those of `current`. The reference is a constant: no gradient flows into it. NaN among entries that count is
        handed on, for the training loop to refuse.

        Args:
            current: predictions of the current model: of this part, or a mapping from part names.
            reference: predictions of the reference model, likewise.
            count: what a mean divides by, where these items are one share of a larger batch; see `Loss.count`.

        Returns:
            A scalar (for `reduction="none"` the weighted value of each item).

        Raises:
            InvalidInputError: the part, the reference or a field is missing, or shapes disagree.
            InvalidTypeError: something other than predictions came.
        """
        given = [self._clean(part, current, reference) for part in self.on_parts]
        own, mask = given[0][0], given[0][2]
        values = self.values(*(prediction for one in given for prediction in one[:2]))
        if values.shape not in (own.log_prob.shape, own.log_prob.shape[:1]):
            raise InvalidInputError(
                f"Expected {type(self).__name__}.values to return one value per item, "
                f"{tuple(own.log_prob.shape)} (got {tuple(values.shape)})"
            )
        mask = None if mask is None else fit_mask(mask, values)
        return reduce_values(values, mask, own.weight, self.reduction, count)

    def _clean(self, part: str, current: Any, reference: Any) -> tuple[Prediction, Prediction | None, Tensor | None]:
        """Predictions of a part, without what is masked in either, and the mask."""
        current = self._pick(current, "current", part)
        reference = self._pick(reference, "reference", part).detach() if self.needs_reference else None
        mask = current.mask
        if reference is not None:
            for name in dict.fromkeys(("log_prob", *self.reads)):
                if name == "label":  # one and the same for both models
                    continue
                check_same_shape(f"{name} of {self.label}", getattr(current, name), getattr(reference, name))
            if reference.mask is not None:
                mask = reference.mask if mask is None else mask & reference.mask
        if mask is None and type(self).keep is not Loss.keep:  # no mask is made, and no copy, where nothing is skipped
            mask = torch.ones_like(current.log_prob, dtype=torch.bool)
        mask = None if mask is None else self.keep(mask)
        if reference is not None:
            reference = reference.fill_masked(mask, self.reads)
        return current.fill_masked(mask, self.reads), reference, mask

    def _pick(self, given: Prediction | Mapping[str, Prediction] | None, role: str, part: str) -> Prediction:
        """A part of what was handed in, with all the fields this loss reads."""
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
            for f in sorted(fields(self), key=lambda f: f.kw_only)
            if getattr(self, f.name) != (f.default if f.name != "on" or f.default == "forget" else None)
        }
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"
