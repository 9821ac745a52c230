"""The diagonal of the empirical Fisher information, in a few backward passes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gunlearn.core.checks import check_differentiable
from gunlearn.errors import InvalidInputError


def fisher_diagonal(losses: Tensor, parameters: Sequence[Tensor], probes: int | None) -> list[Tensor]:
    r"""Return the empirical Fisher's diagonal in the parameters' shapes: mean over items of squared gradients.

    That is :math:`\frac1n \sum_i (\nabla \ell_i)^2` for differentiable losses `[num_items]`, at least one; zero where
    no loss depends on a parameter. With independent random signs :math:`s_i` the square of
    :math:`\sum_i s_i \nabla \ell_i` has the expectation :math:`\sum_i (\nabla \ell_i)^2`: `probes` backward passes,
    with signs from torch's global generator, estimate it for any number of items, each entry with a relative standard
    deviation of at most :math:`\sqrt{2 / probes}`. Exact, by a pass per item, for `None` or no fewer probes than items.
    """
    number = losses.numel()
    if number == 0:
        raise InvalidInputError("Expected at least one item to measure importance on (got none)")
    check_differentiable(losses)
    passes = number if probes is None else min(number, probes)
    exact = passes == number
    total = [torch.zeros_like(p) for p in parameters]
    for i in range(passes):
        value = losses[i] if exact else losses @ (torch.randint(2, losses.shape).to(losses) * 2 - 1)
        found = torch.autograd.grad(value, list(parameters), retain_graph=True, materialize_grads=True)
        for sum_, gradient in zip(total, found, strict=True):
            sum_ += gradient.square()
    return [sum_ / (number if exact else passes * number) for sum_ in total]


def check_probes(probes: int | None) -> None:
    """Refuse a number of probes that is neither an integer >= 1 nor `None`."""
    if probes is not None and (isinstance(probes, bool) or not isinstance(probes, int) or probes < 1):
        raise InvalidInputError(f"Expected 'probes' to be an integer >= 1 or None (got {probes!r})")
