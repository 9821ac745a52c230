"""What share of a training may be spent on a request, and how the learning rate runs over it."""

from collections.abc import Callable
from typing import Any

from torch.optim.lr_scheduler import LambdaLR

from gunlearn.errors import InvalidInputError
from gunlearn.tasks.base import Task
from gunlearn.training.settled import grows

#: Share of a training's steps up to which a run may double its own, where nobody says another.
AT_MOST = 1 / 3
#: Share of the steps before the learning rate falls.
CONSTANT = 0.75
_FEW, _REACH = 10, 0.1  # items, share of the nodes
_USUAL_STEPS = 50
_MANY, _TRACE = 50_000, 1e-3  # nodes, share of them
_TRACE_ITEMS, _TRACE_STEPS = 1e-4, 12  # share of the training items; steps, with all passes


def is_small(partition: Any) -> bool:
    """Return whether a request is of few items that touch few nodes: ten hubs of a graph may touch a fifth of it."""
    touched = getattr(partition, "touched_nodes", None)
    if partition.num_forget > _FEW or touched is None or partition.forgets == ("edges",):
        return partition.num_forget <= _FEW
    return touched.numel() <= _REACH * int(partition.data.num_nodes)


def is_trace(task: Task, partition: Any, growth: float | None) -> bool:
    """Return whether a request is a trace of a large graph on which a training is known to have settled.

    It names up to 10 nodes, or their features: at most a ten-thousandth of the training items, which touch at most a
    thousandth of at least 50,000 nodes. Of so many items a few more or less hardly move a minimum that the training had
    reached; one that had not settled (`growth`, see `gunlearn.training.settled`) may know them by heart instead.
    `experiments/nearest` shows where a run of a few steps ends.
    """
    touched = getattr(partition, "touched_nodes", None)
    if growth is None or grows(growth) or touched is None or partition.num_forget > _FEW:
        return False
    size = int(partition.data.num_nodes)
    if not set(partition.forgets) <= {"nodes", "features"} or size < _MANY or touched.numel() > _TRACE * size:
        return False
    before, after = training_items_around(task, partition)
    return max(partition.num_forget, before - after) <= _TRACE_ITEMS * before


def training_items_around(task: Task, partition: Any) -> tuple[int, int]:
    """Return the number of training items before and after a request."""
    if task.name == "link_prediction":
        return partition.num_retain + partition.forget_edge_index.size(1), partition.num_retain
    before, after = (task.training_parts(data).count("retain") for data in (partition.data, partition.retain_data))
    return before, after


def share_of(partition: Any) -> float:
    """Return the share of a training's steps that a request may cost: by what it forgets, and how much of it."""
    if is_small(partition):
        return 1 / 20
    return 1 / 5 if partition.forgets == ("edges",) else 1 / 8


def steps_of(
    budget: float | None, partition: Any, total: int | None, at_most: float = AT_MOST, brief: bool = False
) -> int:
    """Return the steps that a budget allows, a share of a training's `total`; see `ContinuedTraining`.

    Without one they are the usual share, at least one step, and no more than the share `at_most`; a `brief` run, of a
    request that is a trace of a large graph (`is_trace`), takes 12 at most.
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
    usual = max(1, int(share_of(partition) * total))
    if budget is not None:
        return steps
    return min(steps, usual, _TRACE_STEPS) if brief else min(steps, usual)


def fall(
    steps: int | Callable[[], int], rise: float = 0.0, times: Callable[[], float] | None = None
) -> Callable[[Any], LambdaLR]:
    """Return a scheduler whose rate falls to 0 over the last quarter of the steps; with `rise` it also rises from 0.

    A function tells a number of steps that changes while the rate is constant; `times` a factor on the rate.
    """

    def factor(step: int) -> float:
        whole = max(1, steps if isinstance(steps, int) else steps())
        share = step / whole
        up = min(1.0, (share + 1 / whole) / rise) if rise else 1.0
        shape = min(up, 1.0, max(0.0, (1 - share) / (1 - CONSTANT)))
        return shape if times is None else shape * times()

    return lambda optimizer: LambdaLR(optimizer, factor)
