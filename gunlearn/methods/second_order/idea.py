"""IDEA: GIF's update and Gaussian noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from gunlearn.errors import DivergenceError, InvalidInputError
from gunlearn.methods.second_order.gif import GIF
from gunlearn.methods.second_order.influence_update import MAX_RISE
from gunlearn.methods.second_order.removal import Removal

SHARES = (1.0, 0.3, 0.1, 0.03)  # lengths of the noise that are tried, as shares of the step's


@dataclass(frozen=True)
class IDEA(GIF):
    """GIF's step, then noise `N(0, noise^2)` on every weight (arXiv 2407.19398); uncertified.

    The authors' bound assumes the loss's Lipschitz and convexity constants (.25, 1), which no network with a hidden
    layer meets, and they set the noise by hand; so `notes["certificate"]` says "uncertified". Default mode makes the
    noise as long as the step, or the largest of `SHARES` of it that leaves the model working. Paper mode has the noise
    of their GCN, 0.6 (CS .1, GIN .005), and does not check the resulting model.

    All other options: see `GIF`; `max_distance` limits the step before the noise.

    Args:
        noise: standard deviation per weight; `None` chooses it, in paper mode 0.6.

    Raises:
        DivergenceError: as `GIF`; in default mode also if the noise spoils the retained loss.
    """

    noise: float | None = None

    name = "idea"
    summary = "GIF's step and Gaussian noise"
    paper = "arXiv 2407.19398"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"default": {}, "paper": {"mode": "paper"}}

    def __post_init__(self) -> None:
        """Refuse bad options at construction."""
        super().__post_init__()
        if self.noise is not None and not 0 <= self.noise < float("inf"):
            raise InvalidInputError(f"Expected 'noise' >= 0 or None (got {self.noise})")

    def released(self, step: Tensor, removal: Removal, notes: dict[str, Any], seed: int) -> Tensor:
        size = float(step.norm())
        if self.noise is not None:
            stds = [self.noise]
        else:
            stds = [0.6] if self.mode == "paper" else [size / step.numel() ** 0.5 * share for share in SHARES]
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(step.numel(), generator=generator, dtype=torch.float64).to(step)
        for std in stds:
            noisy = step + std * drawn
            refused = self.refuse(noisy, removal, notes, 2 * MAX_RISE)  # notes the retained loss as it is now
            if not refused or self.mode == "paper":
                notes |= {"noise": std, "step": size}
                return noisy
        raise DivergenceError(
            f"Expected noise that leaves the model working from '{self.name}' (got {refused} with a standard deviation "
            f"of {std:.3g}); lower 'noise'"
        )

    def remarks(self, removal: Removal, before: Tensor) -> dict[str, Any]:
        reason = "the bound's Lipschitz and convexity constants are assumed, not checked"
        return {"certificate": {"status": "uncertified", "reason": reason}}
