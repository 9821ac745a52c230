"""A run goes on while the predictions of what is forgotten still move."""

from __future__ import annotations

from typing import Any

from gunlearn.core.modes import evaluating
from gunlearn.losses import Prediction
from gunlearn.losses.divergences import gaussian_js_divergence, js_divergence, js_to_reference
from gunlearn.methods.any_task.training_budget import CONSTANT
from gunlearn.methods.base import Problem
from gunlearn.methods.forget_part import forget_pieces, predict_pieces
from gunlearn.tasks.base import Parts
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
        problem: whose model learns.
        parts: with the forgotten items.
        steps: at first.
        most: steps, at most.
        batch_size: items per pass, where items are predicted alone.
    """

    def __init__(self, problem: Problem, parts: Parts, steps: int, most: int, batch_size: int | None) -> None:
        self.problem, self.parts = problem, parts
        self.pieces = forget_pieces(problem.task, parts, batch_size)  # the same at each look: items may be drawn
        self.steps, self.most, self.taken = steps, max(steps, most), 0
        self.start = self._predicted()
        self.before: float | None = None

    def ends(self) -> bool:
        """Return whether the run is over; called before each step."""
        last = int(CONSTANT * self.steps)
        if self.taken == last // 2 and self.before is None:
            self.before = self._moved()
        elif self.taken == last and self.before is not None and self.steps < self.most:
            moved = self._moved()
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

    def _predicted(self) -> Prediction:
        with evaluating(self.problem.model):
            return predict_pieces(self.problem.task, self.problem.model, self.parts, self.pieces)

    def _moved(self) -> float:
        """Return the mean divergence of the predictions from those at the start, in nats."""
        now, start = self._predicted(), self.start
        ours, theirs = now.require("logits").double(), start.require("logits").double()
        if now.gaussian:
            return float(gaussian_js_divergence(ours, theirs).mean())
        if now.bernoulli:
            return float(js_divergence(ours.sigmoid(), theirs.sigmoid()).mean())
        return float(js_to_reference(ours, theirs).mean())
