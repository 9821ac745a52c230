"""A run goes on while the predictions of what is forgotten still move."""

from __future__ import annotations

from typing import Any

from gunlearn.methods.any_task.predictions_moved import Moved
from gunlearn.methods.any_task.training_budget import CONSTANT
from gunlearn.training.callbacks import StatefulCallback

#: Steps before which nothing can be told: twice the memory of Adam's first moments.
FEWEST = 20
#: Passes that the looks cost: at least three, forward alone.
PASSES = 1
_RATIO = (
    2.5  # a walk at random doubles its squared distance when it takes twice the steps; a straight one takes fourfold
)


class StillMoving(StatefulCallback):
    r"""The number of steps of a run, doubled as long as the forgotten items' predictions move on.

    .. math:: JS(p_0, p_c) > 2.5 \, JS(p_0, p_{c/2})

    with :math:`p_t` their predictions after :math:`t` steps on the retained data and :math:`c` the last step before the
    learning rate falls. Where they have arrived, the divergence from the start no longer grows; that of a single item
    may double by chance. Neither labels of forgotten items nor their loss are read.

    Args:
        moved: how far the forgotten items have.
        steps: at first.
        most: steps, at most.
    """

    def __init__(self, moved: Moved, steps: int, most: int) -> None:
        self.moved, self.steps, self.most, self.taken = moved, steps, max(steps, most), 0
        self.before: float | None = None

    def ends(self) -> bool:
        """Return whether the run is over; called before each step."""
        last = int(CONSTANT * self.steps)
        if self.taken == last // 2 and self.before is None:
            self.before = self.moved.far()
        elif self.taken == last and self.before is not None and self.steps < self.most:
            moved = self.moved.far()
            if moved > _RATIO * self.before:
                self.steps = min(2 * self.steps, self.most)
            self.before = moved
        self.taken += 1
        return self.taken > self.steps

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run goes on with."""
        return {"steps": self.steps, "taken": self.taken, "before": self.before}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.taken, self.before = state["steps"], state["taken"], state["before"]
