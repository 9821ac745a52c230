"""How a model still moved when its training ended, by what Adam remembers of its last steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gunlearn.training.gradient_memory import gradient_memories
from gunlearn.training.inner_model import learning_names
from gunlearn.training.optimizer_state import is_decoupled, optimizer_kind
from gunlearn.training.resumed_optimizer import resumed_optimizer

#: Cosine of weights and their mean step from which on the step is no noise.
_ALONG = 0.1
_ROUNDED = (torch.float16, torch.bfloat16)


@torch.no_grad()
def mean_steps(optimizer: Any) -> Iterator[tuple[nn.Parameter, Tensor]]:
    r"""Yield each parameter of an optimiser with how far a step moved it at the end of the training.

    .. math:: \Delta\theta = -\eta \bigl(\hat m / (\sqrt{\hat v} + \epsilon) + \lambda \theta\bigr)

    with Adam's mean :math:`\hat m` and mean square :math:`\hat v` of the last gradients; the last term is the decay of
    AdamW alone. It is the mean over about ten steps, in which what dropout and mini-batches draw leaves a rest.

    Yields:
        Parameters that learn, and steps of their shapes; nothing for other classes than torch's Adam and AdamW, and
        for weights of 16 bits, which round most of a step away.
    """
    kind = optimizer_kind(optimizer)
    for p, group, mean, square in gradient_memories(optimizer):
        if square is None or p.dtype in _ROUNDED:
            continue
        if group.get("amsgrad"):
            largest = optimizer.state[p]["max_exp_avg_sq"]
            square = largest / (1 - float(group["betas"][1]) ** float(optimizer.state[p]["step"]))
        step = mean / (square.sqrt() + group["eps"])
        if is_decoupled(group, kind):
            step = step + group["weight_decay"] * p
        yield p, -float(group["lr"]) * step


def growth_by_memory(source: Any, model: nn.Module, total: int | None) -> float | None:
    r"""Return how fast the norm of a model's weights still changed at the end of its training, without a checkpoint.

    .. math:: T \, |\langle \theta, \Delta\theta \rangle| / \lVert \theta \rVert^2

    with the :func:`mean_steps` and the :math:`T` steps of a training: what `gunlearn.training.settled` measures from a
    checkpoint; it came to .47 to .88 of that on Cora and CiteSeer (`experiments/nearest`). Where dropout's noise is
    most of it, it says nothing: steps and weights are nearly at right angles (a cosine of at most .08 was measured
    where a training had settled or its rate made it walk, .14 to .92 where it had not).

    Args:
        source: the optimiser that trained the model, its `state_dict` or a `TrainingState`; it does not change.
        model: as trained.
        total: steps of the training.

    Returns:
        The rate, without unit; `None` where nobody knows the steps, the optimiser remembers none, or their cosine with
        the weights is below a tenth.

    Raises:
        InvalidInputError: see `resumed_optimizer`.
    """
    if total is None:
        return None
    if not isinstance(source, Optimizer):  # which holds the trained weights itself
        learns = [p for p in model.parameters() if p.requires_grad]
        source = resumed_optimizer(source, learns, learning_names(model))
    along = weights = steps = 0.0
    for p, step in mean_steps(source):
        own, moved = p.detach().double(), step.double()
        along += float((own * moved).sum())
        weights += float(own.square().sum())
        steps += float(moved.square().sum())
    drifts = weights > 0 and abs(along) >= _ALONG * math.sqrt(weights * steps)
    return total * abs(along) / weights if drifts else None


@torch.no_grad()
def step_back(optimizer: Any, steps: int) -> None:
    """Move parameters back by the mean step of their training, so many times: in place of a checkpoint."""
    for p, step in mean_steps(optimizer):
        p.sub_(steps * step.to(p.dtype))
