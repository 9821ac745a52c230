"""What share of a training may be spent on a request, and how the learning rate runs over it."""

from collections.abc import Callable
from typing import Any

from torch.optim.lr_scheduler import LambdaLR

from gunlearn.errors import InvalidInputError

_CONSTANT = 0.75  # share of the steps before the rate falls
FEW = 10  # items
_USUAL_STEPS = 50


def share_of(partition: Any) -> float:
    """Return the share of a training's steps that a request may cost: by what it forgets, and how much of it."""
    if partition.num_forget <= FEW:
        return 1 / 20
    return 1 / 5 if partition.forgets == ("edges",) else 1 / 8


def steps_of(budget: float | None, partition: Any, total: int | None) -> int:
    """Return the steps that a budget allows, a share of a training's `total`; see `ContinuedTraining`."""
    if total is None:
        if budget is not None:
            raise InvalidInputError(
                f"Expected 'training' or 'training_steps' beside 'budget', which is a share of its steps (got "
                f"{budget:g} alone); or give 'steps' instead"
            )
        return _USUAL_STEPS
    share = share_of(partition) if budget is None else budget
    steps = int(share * total)
    if not steps:
        raise InvalidInputError(
            f"Expected a budget of at least one step (got {share:g} of {total} steps); raise 'budget', or give 'steps'"
        )
    return steps


def fall(steps: int, rise: float = 0.0) -> Callable[[Any], LambdaLR]:
    """Return a scheduler whose rate falls to 0 over the last quarter of the steps; with `rise` it also rises from 0."""
    whole = max(1, steps)

    def factor(step: int) -> float:
        share = step / whole
        up = min(1.0, (share + 1 / whole) / rise) if rise else 1.0
        return min(up, 1.0, max(0.0, (1 - share) / (1 - _CONSTANT)))

    return lambda optimizer: LambdaLR(optimizer, factor)
