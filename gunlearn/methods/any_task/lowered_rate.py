"""At which rate to go on with a training whose rate a scheduler lowered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gunlearn.methods.any_task.predictions_moved import Moved
from gunlearn.methods.base import Problem
from gunlearn.methods.forget_part import forget_pieces, has_forget_items
from gunlearn.tasks.base import Parts
from gunlearn.training.callbacks import StatefulCallback
from gunlearn.training.training_state import TrainingState

#: Share of a training's highest rate with which it goes on at least, where a scheduler lowered its rate.
LOWERED = 0.1
#: Passes that its looks cost: two, forward alone, at the start and after 4, 8, 16, ... steps.
RATE_LOOKS = 3
_FIRST, _MOST = 4, 1000  # steps; retained items
_MORE = 2.0  # 0.5 to 1.3 was measured where little had been learned by heart, up to 9 where much had


def lowered_to(source: Any) -> float | None:
    """Return the share of its highest rate with which a training goes on, where a scheduler lowered it; else `None`.

    `source` is an optimiser, its `state_dict` or a `TrainingState`.
    """
    known = source.optimizer if isinstance(source, TrainingState) else source
    groups = known["param_groups"] if isinstance(known, Mapping) else known.param_groups
    shares = [float(group["lr"]) / highest for group in groups if (highest := highest_rate(group)) > 0]
    return None if not shares or min(shares) >= 1 else max(LOWERED, min(shares))


def highest_rate(group: Mapping[str, Any]) -> float:
    """Return the highest learning rate that a group of an optimiser tells of."""
    return max(float(group[name]) for name in ("lr", "initial_lr", "max_lr") if name in group)


class LoweredRate(StatefulCallback):
    """The factor on the highest rate: a low one, until forgotten items have moved twice as far as retained ones.

    A rate that fell holds predictions still that had not settled. At the highest one they move on whatever is
    forgotten, and away from what a training of the same length gives; at the low one what was learned by heart stays.
    So the rate rises where going on moves forgotten items first of all. `experiments/nearest` has both.

    Args:
        problem: whose model learns.
        parts: with the retained items, and the forgotten ones; without these the rate stays low.
        low: see `lowered_to`.
    """

    def __init__(self, problem: Problem, parts: Parts, low: float) -> None:
        self.taken, self.factor, self.seen = 0, low, has_forget_items(parts)
        if self.seen:
            retained = parts.sample(["retain"])["retain"]
            if retained.num_items > _MOST:
                retained = retained.take(torch.linspace(0, retained.num_items - 1, _MOST).long())
            self.forget = Moved(problem, parts, forget_pieces(problem.task, parts, None))
            self.retain = Moved(problem, parts, [retained])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.taken += 1
        due = self.seen and self.taken >= _FIRST and self.taken & (self.taken - 1) == 0  # a power of 2
        if due and self.factor < 1 and self.forget.far() > _MORE * self.retain.far():
            self.factor = 1.0

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run goes on with."""
        return {"taken": self.taken, "factor": self.factor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.taken, self.factor = state["taken"], state["factor"]
