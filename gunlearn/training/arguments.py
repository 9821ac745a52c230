"""Settings of one run of the training loop."""

import math
from dataclasses import dataclass
from pathlib import Path

from gunlearn.core.checks import check_folder_path, check_integer
from gunlearn.errors import InvalidInputError


@dataclass(frozen=True)
class TrainArguments:
    """Settings of one run of the loop.

    Args:
        epochs: passes over the items; without `batch_size` a pass is one optimiser step.
        lr: learning rate.
        weight_decay: the optimiser's own; an L2 penalty for Adam and SGD.
        max_grad_norm: clip the gradient's norm; `None` does not clip.
        eval_every: epochs between evaluations on validation items; `None` never evaluates.
        keep: `"last"` epoch or `"best"` on the validation loss.
        progress: show a progress bar.
        checkpoint_dir: folder to write checkpoints to and to resume from.
        checkpoint_every: epochs between checkpoints.
        keep_gradients: the first step adds the gradients that the parameters hold (a quirk of a paper mode).
        fingerprint: names the run; a checkpoint of another run is refused.
        batch_size: items of each part per step; `None` reads them all.
        sampler: what the model reads for a batch, see `GradientOptions`.
        num_neighbors: neighbours per layer for `sampler="neighbor"`.
        steps: optimiser steps, in place of `epochs`.
    """

    epochs: int
    lr: float = 1e-3
    weight_decay: float = 0.0
    max_grad_norm: float | None = None
    eval_every: int | None = None
    keep: str = "last"
    progress: bool = False
    checkpoint_dir: str | Path | None = None
    checkpoint_every: int = 50
    keep_gradients: bool = False
    fingerprint: str = ""
    batch_size: int | None = None
    sampler: str = "k_hop"
    num_neighbors: tuple[int, ...] | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        # In this form NaN is refused as well.
        if not (0 < self.lr < math.inf and 0 <= self.weight_decay < math.inf):
            raise InvalidInputError(f"Expected lr > 0 and weight_decay >= 0 (got {self.lr} and {self.weight_decay})")
        for name, value in (("epochs", self.epochs), ("steps", 0 if self.steps is None else self.steps)):
            check_integer(name, value, minimum=0)
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:  # a negative norm would flip gradients
            raise InvalidInputError(f"Expected 'max_grad_norm' > 0 or None (got {self.max_grad_norm})")
        check_folder_path("checkpoint_dir", self.checkpoint_dir)
        if self.keep not in ("last", "best"):
            raise InvalidInputError(f"Expected 'keep' to be 'last' or 'best' (got '{self.keep}')")
        for name in ("eval_every", "checkpoint_every"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InvalidInputError(f"Expected '{name}' of at least 1 (got {getattr(self, name)})")

    def steps_of(self, steps_per_epoch: int) -> int:
        """Return the optimiser steps of the run, for so many in a pass over the items."""
        return self.epochs * steps_per_epoch if self.steps is None else self.steps
