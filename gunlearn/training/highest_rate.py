"""The highest learning rate of a training, which a scheduler may have lowered since."""

from collections.abc import Mapping
from typing import Any

from gunlearn.training.training_state import TrainingState


def highest_rates(source: Any) -> list[float]:
    """Return the highest learning rate that is known of each group of an optimiser.

    Schedulers of torch leave it in the group, but `CyclicLR` and `ReduceLROnPlateau` do not, and a loop that sets the
    rate itself does not either. A `TrainingState` has the rates of all steps.

    Args:
        source: an optimiser, its `state_dict` or a `TrainingState`.
    """
    rates = source.rates if isinstance(source, TrainingState) else None
    told = [_told(group) for group in groups_of(source)]
    return told if rates is None else [max(pair) for pair in zip(told, rates.amax(0).tolist(), strict=True)]


def groups_of(source: Any) -> list[dict[str, Any]]:
    """Return the groups of parameters of an optimiser, its `state_dict` or a `TrainingState`."""
    known = source.optimizer if isinstance(source, TrainingState) else source
    return known["param_groups"] if isinstance(known, Mapping) else known.param_groups


def _told(group: Mapping[str, Any]) -> float:
    return max(float(group.get(name) or 0.0) for name in ("lr", "initial_lr", "max_lr"))
