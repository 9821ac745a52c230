"""How long Adam remembers the squares of its gradients."""

from __future__ import annotations

from typing import Any

import torch

from gunlearn.training.optimizer_state import is_adam

_MEMORIES, _SHORTEST = 3, 0.95  # in a run; the shortest memory, of 20 steps


def shorten_memory(optimizer: torch.optim.Optimizer, steps: int) -> None:
    r"""Let Adam or AdamW forget, over a third of a run, second moments from before it.

    :math:`\beta_2` becomes at most :math:`1 - 3 / steps`, or 0.95 where that is more; the bias-corrected moments stay
    as they are. Other optimisers do not change.

    Args:
        optimizer: which goes on; changed in place.
        steps: of the run.
    """
    if not is_adam(optimizer):
        return
    for group in optimizer.param_groups:
        remember(optimizer, group, min(float(group["betas"][1]), max(_SHORTEST, 1 - _MEMORIES / steps)))


def remember(optimizer: torch.optim.Optimizer, group: dict[str, Any], after: float) -> None:
    """Set a group's second rate of decay; the bias-corrected second moments stay as they are.

    Args:
        optimizer: changed in place; nothing but Adam and AdamW changes.
        group: one of its groups.
        after: the rate, in [0, 1).
    """
    if not is_adam(optimizer):
        return
    first, before = (float(beta) for beta in group["betas"])
    group["betas"] = (first, after)
    for parameter in group["params"]:
        state = optimizer.state.get(parameter, {})
        step = float(state.get("step", 0))
        if after == before or not step:
            continue
        for name in {"exp_avg_sq", "max_exp_avg_sq"} & set(state):
            state[name].mul_((1 - after**step) / (1 - before**step))
