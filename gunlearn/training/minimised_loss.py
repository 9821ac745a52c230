"""The value that a training minimises, to see whether steps brought a model nearer to its minimum."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.core.modes import set_training
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Task
from gunlearn.tasks.sampling import BatchOptions
from gunlearn.training.from_scratch import training_step
from gunlearn.training.optimizer_state import is_decoupled
from gunlearn.training.optimizer_step import summed

_DRAWS = 3  # of dropout and negatives


@torch.no_grad()
def training_losses(model: nn.Module, data: Any, task: Task, reading: BatchOptions, seed: int) -> Tensor:
    """Return the mean negative log-likelihood of training items under each of three draws, `[3]` in nats.

    Dropout, negatives and batches are drawn under `seed`, the same for each model.

    Args:
        model: to judge; it does not change.
        data: training data.
        task: what the model predicts.
        reading: how much a pass reads.
        seed: of the draws.
    """
    model, losses = set_training(copy.deepcopy(model)), []
    for draw in range(_DRAWS):
        with isolated_rng(seed + draw):
            _, step = training_step(model, data, task, reading)
            losses.append(float(summed(step()).total))
        if losses[0] == losses[-1] and draw == 1:  # nothing is drawn: without dropout, negatives and batches
            losses = losses[:1] * _DRAWS
            break
    return torch.tensor(losses, dtype=torch.double)


def penalty_of(weights: Mapping[str, Tensor], decay: Mapping[str, float]) -> float:
    r"""Return the L2 penalty :math:`\tfrac12 \sum_i \lambda_i \lVert\theta_i\rVert^2` of weights by name."""
    return sum(0.5 * value * float(weights[name].double().square().sum()) for name, value in decay.items())


def decay_of(optimizer: Any, model: nn.Module) -> dict[str, float] | None:
    """Return the L2 penalty of each parameter by name; `None` where the decay is decoupled from the loss (AdamW)."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, float] = {}
    for group in optimizer.param_groups:
        value = float(group.get("weight_decay") or 0.0)
        if value and is_decoupled(group, type(optimizer).__name__):
            return None
        found |= {names[id(parameter)]: value for parameter in group["params"] if value}
    return found
