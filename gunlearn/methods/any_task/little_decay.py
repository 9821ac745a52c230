"""Whether a training had weight decay that works against what it learned by heart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gunlearn.training.highest_rate import groups_of, highest_rates
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
        source, kind, steps = state, state.kind, state.kept_at
    elif source is None:
        return ""
    else:
        kind = "" if isinstance(source, Mapping) else optimizer_kind(source)
    rates = zip(groups_of(source), _summed_rates(source, steps), strict=True)
    left = [_left(group, kind, summed) for group, summed in rates]
    if min(left) == 1:
        return "no weight decay"
    return f"next to no weight decay (over it a weight keeps {min(left):.1%})" if min(left) > _LEFT else ""


def _summed_rates(source: Any, steps: int | None) -> list[float | None]:
    """Return the sum of the learning rates of each group over a training; `None` where nobody knows its steps.

    Without the rates of all steps the highest one is taken for each.
    """
    if isinstance(source, TrainingState) and source.rates is not None and source.knows_all_rates:
        return source.rates[:steps].sum(0).tolist()
    return [None if steps is None else rate * steps for rate in highest_rates(source)]


def _left(group: Mapping[str, Any], kind: str, summed: float | None) -> float:
    """Return the share of a group's weights that decoupled decay leaves; 0 for a penalty, and where nobody knows."""
    decay = float(group.get("weight_decay") or 0.0)
    if not decay or not group["params"]:
        return 1.0
    return math.exp(-decay * summed) if is_decoupled(group, kind) and summed is not None else 0.0
