"""Weights that stay exactly as they are while the others learn."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class HeldWeights:
    """Holds entries of parameters at the values that they have now, whatever an optimiser does to them.

    A zero gradient alone does not: weight decay and momentum still move an entry. So gradients are cleared before each
    step, for all that reads them (clipping, curvature), and values are restored after it.

    Args:
        parameters: what is trained.
        moving: for each of them a boolean mask of its shape: the entries that learn.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], moving: Sequence[Tensor]) -> None:
        self.parameters, self.masks = list(parameters), [~mask for mask in moving]
        self.values = [p.detach()[mask].clone() for p, mask in zip(self.parameters, self.masks, strict=True)]

    @property
    def moving_share(self) -> float:
        """Return the share of all entries that learn."""
        entries = sum(mask.numel() for mask in self.masks)
        return 1 - sum(value.numel() for value in self.values) / entries

    @torch.no_grad()
    def clear_gradients(self) -> None:
        """Set the gradients of held entries to zero."""
        for parameter, mask in zip(self.parameters, self.masks, strict=True):
            if parameter.grad is not None:
                parameter.grad.masked_fill_(mask, 0)

    @torch.no_grad()
    def restore(self) -> None:
        """Set held entries to their values again, bit by bit."""
        for parameter, mask, value in zip(self.parameters, self.masks, self.values, strict=True):
            parameter[mask] = value
