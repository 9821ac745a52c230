"""What share of a training may be spent on a request, and how the learning rate runs over it."""

from collections.abc import Callable
from typing import Any

from torch.optim.lr_scheduler import LambdaLR

from gunlearn.errors import InvalidInputError

#: Share of the steps before the learning rate falls.
CONSTANT = 0.75
_FEW, _REACH = 10, 0.1  # items, share of the nodes
_USUAL_STEPS = 50


def is_small(partition: Any) -> bool:
    """Return whether a request is of few items that touch few nodes: ten hubs of a graph may touch a fifth of it."""
    touched = getattr(partition, "touched_nodes", None)
    if partition.num_forget > _FEW or touched is None or partition.forgets == ("edges",):
        return partition.num_forget <= _FEW
    return touched.numel() <= _REACH * int(partition.data.num_nodes)


def share_of(partition: Any) -> float:
    """Return the share of a training's steps that a request may cost: by what it forgets, and how much of it."""
    if is_small(partition):
        return 1 / 20
    return 1 / 5 if partition.forgets == ("edges",) else 1 / 8


def steps_of(budget: float | None, partition: Any, total: int | None, at_most: float = 1.0) -> int:
    """Return the steps that a budget allows, a share of a training's `total`; see `ContinuedTraining`.

    Without one they are the usual share, at least one step, and no more than the share `at_most`.
    """
    if total is None:
        if budget is not None:
            raise InvalidInputError(
                f"Expected 'training' or 'training_steps' beside 'budget', which is a share of its steps (got "
                f"{budget:g} alone); or give 'steps' instead"
            )
        return _USUAL_STEPS
    share = at_most if budget is None else budget
    steps = int(share * total)
    if not steps:
        raise InvalidInputError(
            f"Expected a budget of at least one step (got {share:g} of {total} steps); raise 'budget', or give 'steps'"
        )
    return steps if budget is not None else min(steps, max(1, int(share_of(partition) * total)))


def fall(steps: int | Callable[[], int], rise: float = 0.0) -> Callable[[Any], LambdaLR]:
    """Return a scheduler whose rate falls to 0 over the last quarter of the steps; with `rise` it also rises from 0.

    A function tells a number of steps that changes while the rate is constant.
    """

    def factor(step: int) -> float:
        whole = max(1, steps if isinstance(steps, int) else steps())
        share = step / whole
        up = min(1.0, (share + 1 / whole) / rise) if rise else 1.0
        return min(up, 1.0, max(0.0, (1 - share) / (1 - CONSTANT)))

    return lambda optimizer: LambdaLR(optimizer, factor)
