"""Shrink the weights that matter to what is forgotten, as `ETR` does."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def erase(
    parameters: Sequence[Tensor],
    everything: Sequence[Tensor],
    gone: Sequence[Tensor] | None,
    near: Sequence[Tensor],
    ratio: float,
) -> int:
    """Shrink weights in place by `ETR`'s factors, each at most the share `ratio` of a tensor; return how many.

    `everything`, `gone` (`None` for none) and `near`: gradients of the mean losses of all, removed and reached items.
    """
    count = 0
    for i, parameter in enumerate(parameters if ratio else ()):
        factors = [everything[i] / near[i]]
        if gone is not None:
            factors = [everything[i] / gone[i], everything[i] / gone[i] * factors[0]]
        free = torch.ones_like(parameter, dtype=torch.bool)
        for factor in factors:
            # Squared after the division, or small gradients underflow. 0 / 0 becomes 1: erase nothing.
            factor = factor.square().nan_to_num(1.0).clamp(max=1)
            limit = quantile(factor, ratio)
            chosen = free & (factor <= limit) & (factor < 1)
            parameter.mul_(torch.where(chosen, factor / limit, 1).nan_to_num(0.0))
            free &= ~chosen
        count += int((~free).sum())
    return count


def quantile(values: Tensor, q: float) -> Tensor:
    """Return `torch.quantile` by linear interpolation, for tensors of any size."""
    values = values.flatten()
    place = q * (values.numel() - 1)
    low, high = (values.kthvalue(int(k) + 1).values for k in (math.floor(place), math.ceil(place)))
    return low + (high - low) * (place - math.floor(place))
