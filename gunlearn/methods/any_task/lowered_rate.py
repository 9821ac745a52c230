"""At which rate to go on with a training whose rate a scheduler lowered."""

from __future__ import annotations

from typing import Any

from gunlearn.methods.any_task.predictions_moved import Moved
from gunlearn.training.callbacks import StatefulCallback
from gunlearn.training.highest_rate import groups_of, highest_rates

#: Share of a training's highest rate with which it goes on at least, where a scheduler lowered its rate.
LOWERED = 0.1
#: Passes that its looks cost: two, forward alone, at the start and after 4, 8, 16, ... steps.
RATE_LOOKS = 3
_FIRST = 4  # steps
_LIKE_THE_HIGHEST = 1 - 1e-6  # rates of all steps are kept in single precision
_MORE = 2.0  # 0.5 to 1.3 was measured where little had been learned by heart, up to 9 where much had


def lowered_to(source: Any) -> float | None:
    """Return the share of its highest rate with which a training goes on, where a scheduler lowered it; else `None`.

    `source` is an optimiser, its `state_dict` or a `TrainingState`.
    """
    rates = zip(groups_of(source), highest_rates(source), strict=True)
    shares = [float(group["lr"]) / highest for group, highest in rates if highest > 0]
    return None if not shares or min(shares) >= _LIKE_THE_HIGHEST else max(LOWERED, min(shares))


class LoweredRate(StatefulCallback):
    """The factor on the highest rate: a low one, until forgotten items have moved twice as far as retained ones.

    A rate that fell holds predictions still that had not settled. At the highest one they move on whatever is
    forgotten, and away from what a training of the same length gives; at the low one what was learned by heart stays.
    So the rate rises where going on moves forgotten items first of all. `experiments/nearest` has both.

    Args:
        low: see `lowered_to`.
        forgotten: how far these items have moved; `None` takes no look, and the rate stays low.
    """

    def __init__(self, low: float, forgotten: Moved | None) -> None:
        self.taken, self.factor, self.forgotten = 0, low, forgotten
        self.retained = None if forgotten is None else Moved.retained(forgotten.problem, forgotten.parts)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.taken += 1
        if self.forgotten is None or self.retained is None or self.factor == 1:
            return
        due = self.taken >= _FIRST and self.taken & (self.taken - 1) == 0  # a power of 2
        if due and self.forgotten.far() > _MORE * self.retained.far():
            self.factor = 1.0

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run goes on with."""
        return {"taken": self.taken, "factor": self.factor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.taken, self.factor = state["taken"], state["factor"]
