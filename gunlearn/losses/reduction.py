"""From values per item to one number: masks, weights and averages."""

import torch
from torch import Tensor

from gunlearn.core.checks import check_choice
from gunlearn.errors import InvalidInputError

REDUCTIONS = ("mean", "sum", "none", "token_mean", "seq_mean", "seq_sum")
PER_ITEM = ("seq_mean", "seq_sum")  # reduce each item's tokens to one value, then average over items


def reduce_values(
    values: Tensor,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    count: Tensor | float | None = None,
) -> Tensor:
    """Mask, weigh and reduce a loss's values to a scalar, or for `"none"` to the shape of `values`.

    The mask takes items out of numerator and denominator; the weight multiplies values and stays out of the
    denominator. Where nothing is left, the result is a differentiable zero, not NaN. A masked value gets an exactly
    zero gradient. Zero the masked inputs of the loss as well (`Prediction.fill_masked`): zero times an infinite
    derivative is NaN.

    Args:
        values: `[num_items]` or `[num_items, num_tokens]`.
        mask: boolean, `[num_items]` or the shape of `values`; `None` keeps everything.
        weight: a number, `[num_items]` or broadcastable to `values` (`[1, num_tokens]` weighs positions).
        reduction: `"mean"` over all that the mask keeps (`"token_mean"` is another name of it), `"sum"`, or `"none"`
            (masked values are 0). `"seq_sum"` and `"seq_mean"` add up or average each item's tokens first and then
            average over the items that have any: with `"seq_mean"` a long item weighs as much as a short one.
        count: what means divide by, in place of the number of values (or items) given here; for one share of a larger
            batch, the number in the whole batch.

    Raises:
        InvalidInputError: unknown reduction, or shapes that do not fit.

    Example:
        >>> values = torch.tensor([1.0, 2.0, float("nan")])
        >>> reduce_values(values, mask=torch.tensor([True, True, False]))
        tensor(1.5000)
    """
    check_choice("reduction", reduction, REDUCTIONS)
    values = full_precision(values)
    if mask is not None:
        mask = _spread("mask", mask, values)
        values = torch.where(mask, values, 0)
    if weight is not None:
        weight = _spread("weight", weight, values)
        values = values * (weight if mask is None else torch.where(mask, weight, 0))
    if reduction == "none":
        return values
    if reduction in PER_ITEM and values.dim() > 1:
        tokens = None if mask is None else mask.flatten(1).sum(1)
        values, size = values.flatten(1).sum(1), values.shape[1:].numel()
        if reduction == "seq_mean":
            values = values / (max(size, 1) if tokens is None else tokens.clamp_min(1))
        mask = None if tokens is None else tokens > 0
    if reduction == "sum":
        return values.sum()
    if count is None:
        count = max(values.numel(), 1) if mask is None else mask.sum().clamp_min(1)
    return values.sum() / count


def full_precision(x: Tensor) -> Tensor:
    """Convert half precision (and integers) to float32; leave float32 and float64."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def fit_mask(mask: Tensor | None, values: Tensor) -> Tensor | None:
    """Reduce a mask per token to one per item where values are per item: items with any token left stay."""
    return mask.flatten(1).any(1) if mask is not None and mask.dim() > values.dim() else mask


def _spread(name: str, tensor: Tensor, values: Tensor) -> Tensor:
    """Expand to the shape of `values`, aligning dimensions from the left: the first one always counts items.

    Torch's own broadcasting would read `[num_items]` weights as weights of tokens wherever the sizes agree.
    """
    if tensor.dim() > values.dim() and tensor.shape[values.dim() :].numel() == 1:
        tensor = tensor.reshape(tensor.shape[: values.dim()])
    shape = tensor.shape + (1,) * (values.dim() - tensor.dim())
    if len(shape) != values.dim() or any(size not in (1, full) for size, full in zip(shape, values.shape, strict=True)):
        raise InvalidInputError(
            f"Expected '{name}' to fit values of shape {tuple(values.shape)} (got {tuple(tensor.shape)})"
        )
    return tensor.reshape(shape).expand_as(values)
