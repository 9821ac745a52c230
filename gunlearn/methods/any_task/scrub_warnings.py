"""What is told of a run of SCRUB that forgets nothing, or that left the original model the wrong way."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.losses import NLL, Distillation
from gunlearn.methods.base import Problem
from gunlearn.methods.forget_part import forget_pieces, predict_pieces
from gunlearn.tasks.base import Parts

#: Fewer steps away from the original model mostly leave it where it is: the first ones have hardly a gradient.
FEW = 8


def warn_of_few(name: str, taken: int) -> None:
    """Warn where a run takes too few steps away from the original model."""
    if taken < FEW:
        warnings.warn(
            f"'{name}' takes {taken} steps away from the original model, with fewer than {FEW} of which it mostly "
            "forgets nothing; raise 'max_epochs' or 'max_steps', or lower 'forget_batch_size'",
            stacklevel=2,
        )


@torch.no_grad()
def direction(problem: Problem, model: nn.Module, parts: Parts, temperature: float, size: int | None) -> dict[str, Any]:
    """Return how far the forget set moved from the teacher, and whether it became less or more likely."""
    pieces = forget_pieces(problem.task, parts, size)  # the noise of a denoiser is drawn once, for both models
    after, before = (predict_pieces(problem.task, m, parts, pieces) for m in (model, problem.reference))
    distance = float(Distillation(temperature)(after, before))
    nll: list[Tensor] = [NLL()(p.replace(weight=None)) for p in (before, after)]
    notes = {"forget_nll": [float(value) for value in nll], "forget_divergence": distance, "direction": "right"}
    if distance > 1e-2 and nll[1] < nll[0]:
        notes["direction"] = "wrong"
        warnings.warn(
            f"'scrub' left the original model by becoming more certain of what it was to forget (loss "
            f"{float(nll[0]):.3g} to {float(nll[1]):.3g}, divergence {distance:.3g}); lower 'temperature' or take more "
            "'max_steps'",
            stacklevel=2,
        )
    return notes
