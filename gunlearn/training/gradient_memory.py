"""What an optimiser remembers of its last gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gunlearn.training.optimizer_state import is_adam
from gunlearn.training.training_state import TrainingState

#: Momentum above which a mean is over too many steps to be that of the last ones.
_LONG = 0.95


class Memory(NamedTuple):
    """What is remembered of one parameter's gradients, L2 penalty included.

    Attributes:
        parameter: which one.
        group: of the optimiser that holds it.
        mean: of the last gradients, in the parameter's shape.
        square: the mean of their squares; `None` where nothing is known of it.
    """

    parameter: nn.Parameter
    group: dict[str, Any]
    mean: Tensor
    square: Tensor | None


def gradient_memories(optimizer: Any) -> Iterator[Memory]:
    r"""Yield what an optimiser remembers of each parameter that learns.

    Adam and AdamW: :math:`\hat m` and :math:`\hat v`, means over about :math:`1 / (1 - \beta)` steps, corrected for
    their start from zero. SGD with momentum :math:`\mu`: its buffer times :math:`(1 - \mu) / (1 - d)` under dampening
    :math:`d`, the mean over about :math:`1 / (1 - \mu)` steps, of twenty and fewer. Other classes, and those that
    derive from these, yield nothing.
    """
    sgd = type(optimizer) is torch.optim.SGD
    if not (sgd or is_adam(optimizer)):
        return
    for group in optimizer.param_groups:
        for p in group["params"]:
            state = optimizer.state.get(p) or {}
            if not p.requires_grad:
                continue
            brief = sgd and group["dampening"] < 1 and group["momentum"] <= _LONG
            if brief and state.get("momentum_buffer") is not None:
                share = (1 - group["momentum"]) / (1 - group["dampening"])
                yield Memory(p, group, state["momentum_buffer"] * share, None)
            elif "exp_avg" in state and float(state["step"]):
                mean, square = (1 - float(beta) ** float(state["step"]) for beta in group["betas"])
                yield Memory(p, group, state["exp_avg"] / mean, state["exp_avg_sq"] / square)


def remembers(source: Any) -> bool:
    """Return whether an optimiser, its `state_dict` or a `TrainingState` holds what `gradient_memories` yields."""
    if isinstance(source, Optimizer):
        return next(gradient_memories(source), None) is not None
    state = source.optimizer if isinstance(source, TrainingState) else source
    brief = any(0 < (group.get("momentum") or 0) <= _LONG for group in state["param_groups"])
    names = {"exp_avg_sq", "momentum_buffer"} if brief else {"exp_avg_sq"}
    return any(entry.get(name) is not None for entry in state["state"].values() for name in names)
