"""Whether a training had weight decay that works against what it learned by heart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from gunlearn.training.optimizer_state import is_decoupled, optimizer_kind
from gunlearn.training.training_state import TrainingState

#: Share of a weight that decoupled decay leaves over a training, from which on it counts as none: what takes less than
#: a fifth of weights that no gradient holds can undo little of those that one does. There is no sharp line: the more
#: decay, the nearer a continued training ends.
_LEFT = 0.8


def lacking_decay(state: TrainingState | None, source: Any, steps: int | None) -> str:
    r"""Return in words that a training had no weight decay, or next to none; empty where it had, or nobody knows.

    Decoupled decay (AdamW) multiplies a weight by :math:`1 - \eta\lambda` per step, and by about

    .. math:: \exp\Bigl(-\lambda \sum_t \eta_t\Bigr)

    over the training, whatever its gradients are: by .975 in 250 steps at AdamW's defaults and a rate of .01. Above .8
    it counts as next to none.

    Args:
        state: of the training, if it is known.
        source: the optimiser that trained the model, or its `state_dict`, where there is no state.
        steps: of the training, where there is no state; `None` where they are not known.
    """
    if state is not None:
        groups, kind, steps = state.optimizer["param_groups"], state.kind, state.kept_at
    elif source is None:
        return ""
    else:
        groups = source["param_groups"] if isinstance(source, Mapping) else source.param_groups
        kind = "" if isinstance(source, Mapping) else optimizer_kind(source)
    left = [_left(group, kind, steps, _rates(state, number)) for number, group in enumerate(groups)]
    if min(left) == 1:
        return "no weight decay"
    return f"next to no weight decay (over it a weight keeps {min(left):.1%})" if min(left) > _LEFT else ""


def _rates(state: TrainingState | None, group: int) -> torch.Tensor | None:
    return None if state is None or state.rates is None else state.rates[:, group]


def _left(group: Mapping[str, Any], kind: str, steps: int | None, rates: torch.Tensor | None) -> float:
    """Return the share of a group's weights that decoupled decay leaves; 0 for a penalty, and where nobody knows."""
    decay = float(group.get("weight_decay") or 0.0)
    if not decay or not group["params"]:
        return 1.0
    if not is_decoupled(group, kind) or steps is None:
        return 0.0
    rate = max(float(group["lr"]), float(group.get("initial_lr", 0.0)))  # a scheduler may have lowered it
    return math.exp(-decay * (rate * steps if rates is None else float(rates[:steps].sum())))
