"""What share of a training may be spent on a request, and how the learning rate runs over it."""

from collections.abc import Callable
from typing import Any

from torch.optim.lr_scheduler import LambdaLR

from gunlearn.errors import InvalidInputError

#: Share of the steps before the learning rate falls.
CONSTANT = 0.75
_FEW, _REACH = 10, 0.1  # items, share of the nodes
_USUAL_STEPS = 50
_MANY, _TRACE, _TRACE_STEPS = 50_000, 1e-3, 12  # nodes, share of them, steps with all passes


def is_small(partition: Any) -> bool:
    """Return whether a request is of few items that touch few nodes: ten hubs of a graph may touch a fifth of it."""
    touched = getattr(partition, "touched_nodes", None)
    if partition.num_forget > _FEW or touched is None or partition.forgets == ("edges",):
        return partition.num_forget <= _FEW
    return touched.numel() <= _REACH * int(partition.data.num_nodes)


def is_trace(partition: Any) -> bool:
    """Return whether a request of nodes or features is a trace of a large graph: few items, a thousandth is touched.

    Of so many items one more or less hardly moves the minimum that retraining looks for; `experiments/speed` shows
    where a run of a few steps ends.
    """
    touched = getattr(partition, "touched_nodes", None)
    if partition.num_forget > _FEW or touched is None or partition.forgets == ("edges",):
        return False
    size = int(partition.data.num_nodes)
    return size >= _MANY and touched.numel() <= _TRACE * size


def share_of(partition: Any) -> float:
    """Return the share of a training's steps that a request may cost: by what it forgets, and how much of it."""
    if is_small(partition):
        return 1 / 20
    return 1 / 5 if partition.forgets == ("edges",) else 1 / 8


def steps_of(budget: float | None, partition: Any, total: int | None, at_most: float = 1.0) -> int:
    """Return the steps that a budget allows, a share of a training's `total`; see `ContinuedTraining`.

    Without one they are the usual share, at least one step, and no more than the share `at_most`; 12 at most where the
    request is a trace of a large graph (`is_trace`).
    """
    most = _TRACE_STEPS if budget is None and is_trace(partition) else None
    if total is None:
        if budget is not None:
            raise InvalidInputError(
                f"Expected 'training' or 'training_steps' beside 'budget', which is a share of its steps (got "
                f"{budget:g} alone); or give 'steps' instead"
            )
        return most or _USUAL_STEPS
    share = at_most if budget is None else budget
    steps = int(share * total)
    if not steps:
        raise InvalidInputError(
            f"Expected a budget of at least one step (got {share:g} of {total} steps); raise 'budget', or give 'steps'"
        )
    usual = max(1, int(share_of(partition) * total))
    return steps if budget is not None else min(steps, usual if most is None else min(usual, most))


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
