"""A model's predictions on a set of items: what tasks make and losses read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from gunlearn.core.checks import check_categorical
from gunlearn.errors import InvalidInputError, InvalidTypeError


@dataclass(frozen=True, eq=False)  # compared by identity: tensors have no single truth value
class Prediction:
    """Per-item outputs of a model; an item is an edge, a node, an image, a token sequence.

    Args:
        log_prob: log-likelihood of each item's own label, in nats: `[num_items]` or `[num_items, num_tokens]`.
        logits: unnormalised scores: `[num_items, num_classes]`, `[num_items, num_tokens, num_classes]`, or shaped like
            `log_prob` (Bernoulli: an edge, each label of a multi-label node); means where `gaussian` is set.
        embeddings: hidden representations, `[num_items, ..., dim]` (an edge has two: `[num_items, 2, dim]`); where
            `log_prob` is per token and the sizes fit, `[num_items, num_tokens, dim]` is one embedding per token.
        mask: boolean, shaped like `log_prob`; `False` entries count in no loss (exactly zero gradient).
        weight: multiplies each item's loss value: a number, `[num_items]` or broadcastable to `log_prob`; it does
            not enter the denominator of a mean.
        label: class index of each item's own label (a sequence's tokens), whose log-likelihood `log_prob` is; integers
            shaped like `log_prob`.
        gaussian: `logits` `[num_items, dim]` are means of normal distributions of variance 1, and `log_prob` is minus
            half the squared distance from the truth: the log-likelihood up to a constant.

    Raises:
        InvalidInputError: the leading shapes disagree.
        InvalidTypeError: the mask is not boolean, or labels are no integers.

    Example:
        >>> import torch
        >>> prediction = Prediction(log_prob=torch.tensor([0.5, 0.25]).log(), mask=torch.tensor([True, False]))
        >>> prediction.num_items
        2
    """

    log_prob: Tensor
    logits: Tensor | None = None
    embeddings: Tensor | None = None
    mask: Tensor | None = None
    weight: Tensor | None = None
    label: Tensor | None = None
    gaussian: bool = False

    def __post_init__(self) -> None:
        shape = self.log_prob.shape
        if not shape:
            raise InvalidInputError("Expected 'log_prob' to hold one value per item (got a single number)")
        for name in ("logits", "embeddings"):
            value = getattr(self, name)
            if value is not None and value.shape[:1] != shape[:1]:
                raise InvalidInputError(
                    f"Expected '{name}' to describe {tuple(shape[:1])} items (got {tuple(value.shape)})"
                )
        for name, value in (("mask", self.mask), ("label", self.label)):
            if value is not None and value.shape != shape:
                raise InvalidInputError(
                    f"Expected '{name}' to have the shape of 'log_prob' {tuple(shape)} (got {tuple(value.shape)})"
                )
        if self.mask is not None and self.mask.dtype != torch.bool:
            raise InvalidTypeError(f"Expected 'mask' to be boolean (got {self.mask.dtype})")
        if self.label is not None and (self.label.is_floating_point() or self.label.dtype == torch.bool):
            raise InvalidTypeError(f"Expected 'label' to be integer class indices (got {self.label.dtype})")

    @property
    def num_items(self) -> int:
        """Number of items, the size of the first dimension."""
        return self.log_prob.size(0)

    def item_dims(self, name: str) -> int:
        """Return how many leading dimensions of the field `name` index values: those of `log_prob` if they fit, else 1.

        Per-token log-probabilities `[num_items, num_tokens]` may come with embeddings per token (2) or per item (1).
        """
        value, shape = getattr(self, name), self.log_prob.shape
        # The last dimension of embeddings is never an index, even where its size happens to equal num_tokens.
        room = value.dim() - (name == "embeddings")
        return len(shape) if room >= len(shape) and value.shape[: len(shape)] == shape else 1

    @property
    def bernoulli(self) -> bool:
        """Whether each logit is a yes or no of its own."""
        return not self.gaussian and self.logits is not None and self.logits.shape == self.log_prob.shape

    def require(self, name: str) -> Tensor:
        """Return the field `name`; raise `InvalidInputError` where it is `None`."""
        value = getattr(self, name)
        if value is None:
            raise InvalidInputError(f"Expected a prediction with '{name}' (got None)")
        return value

    def class_logits(self) -> Tensor:
        """Return the logits, checked to be a row of at least two classes for each value of `log_prob`."""
        logits = self.require("logits")
        if self.gaussian:
            raise InvalidInputError("Expected predictions of classes (got means of a regression)")
        check_categorical(logits, self.log_prob.shape)
        return logits

    def fill_masked(self, mask: Tensor | None = None, names: Iterable[str] = ("logits", "embeddings")) -> Prediction:
        """Put zeros where `mask` (default: the prediction's own) is `False`, in `log_prob` and the fields `names`.

        To mask the values of a loss is not enough: zero gradient times an infinite derivative of the loss is NaN.
        """
        mask = self.mask if mask is None else mask
        if mask is None:
            return self
        filled = {}
        for name in {"log_prob", *names}:
            value = getattr(self, name)
            if value is not None:
                keep = mask.flatten(1).any(1) if self.item_dims(name) < mask.dim() else mask
                filled[name] = torch.where(keep.reshape(keep.shape + (1,) * (value.dim() - keep.dim())), value, 0)
        return self.replace(mask=mask, **filled)

    def map(self, function: Callable[[Tensor], Tensor]) -> Prediction:
        """Apply `function` (such as a move to a device) to every tensor."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "gaussian"}
        return self.replace(**{name: function(t) for name, t in tensors.items() if t is not None})

    def detach(self) -> Prediction:
        """Return the same prediction without gradient."""
        return self.map(Tensor.detach)

    def replace(self, **changes: Any) -> Prediction:
        """Return a copy with other tensors (or `None`) in some fields."""
        return replace(self, **changes)
