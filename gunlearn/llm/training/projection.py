"""Project the forgetting gradient so that it does not conflict with the preserving gradient."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gunlearn.core.checks import check_same_shape
from gunlearn.errors import InvalidInputError

#: A gradient shorter than the other by this factor is rounding noise without a direction.
NOISE = 1e-6


def project_conflict(forget: Sequence[Tensor], keep: Sequence[Tensor]) -> list[Tensor]:
    r"""Return the part of one gradient that does not conflict with the other.

    .. math:: g_u - \min\Big(0, \frac{\langle g_u, g_k \rangle}{\|g_k\|^2}\Big) g_k

    over all tensors (one per parameter) as one flat vector, with :math:`g_u` in `forget` and :math:`g_k` in `keep`.
    Returns `forget` unchanged where the two agree, or where `keep` is zero or rounding noise (`NOISE`). Refuses lists
    of different lengths or shapes.
    """
    if len(forget) != len(keep):
        raise InvalidInputError(f"Expected as many tensors in both gradients, {len(forget)} (got {len(keep)})")
    for u, k in zip(forget, keep, strict=True):
        check_same_shape("gradients", u, k)
    product, across, along = inner(forget, keep), inner(forget, forget), inner(keep, keep)
    if product >= 0 or along <= NOISE**2 * across:
        return list(forget)
    return [u - (product / along) * k for u, k in zip(forget, keep, strict=True)]


def inner(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """Return the inner product of two lists of tensors as flat vectors, summed in float64."""
    return float(sum((a.double() * b.double()).sum() for a, b in zip(left, right, strict=True))) if left else 0.0


def zeros_for_none(grads: Sequence[Tensor | None], params: Sequence[Tensor]) -> list[Tensor]:
    """Return gradients, with zeros in place of `None`."""
    return [torch.zeros_like(p) if g is None else g for g, p in zip(grads, params, strict=True)]
