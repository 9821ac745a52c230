"""Steps that ended farther from the minimum that retraining looks for are taken back."""

from __future__ import annotations

import copy
import warnings
from typing import Any

from torch import nn

from gunlearn.methods.base import Outcome
from gunlearn.tasks.base import Task
from gunlearn.tasks.sampling import BatchOptions
from gunlearn.training.minimised_loss import decay_of, penalty_of, training_losses
from gunlearn.training.processes import world_size

#: Passes that a look before and one after take: three draws each, forward alone, cost about as much as a step each.
LOOKS = 2
_RISE = 1.5
_T = 2.92  # Student's t for three draws, 5 % on one side


class Look:
    """The training's loss on the retained data before a run, and the weights.

    Retraining minimises this loss, with its penalty: a run that raised it led away from there. Where training had not
    settled, the loss falls on and says nothing.

    Args:
        model: before the run.
        data: the retained data.
        task: what the model predicts.
        reading: how much a pass reads.
        seed: of the draws.
    """

    def __init__(self, model: nn.Module, data: Any, task: Task, reading: BatchOptions, seed: int) -> None:
        self.seen = data, task, reading, seed
        self.weights = copy.deepcopy(model.state_dict())
        self.penalty = 0.0  # in nats, before the run; known after it, when its optimiser is
        self.losses = training_losses(model, *self.seen) if world_size() == 1 else None

    def not_farther(self, outcome: Outcome, optimizer: Any, take_back: bool = True, slack: float = 0.0) -> Outcome:
        """Return the outcome; with the weights from before where the loss, with the optimiser's L2 penalty, rose.

        A rise counts where it is more than the draws of dropout and negatives explain (a paired t test at 5 %), and
        more than the share `slack` of the loss. Without `take_back` the steps stay, and the notes alone say so.
        """
        model, state = outcome.model, outcome.state
        decay = None if optimizer is None else decay_of(optimizer, model)
        if self.losses is None or decay is None or state is None or not state.step:
            return outcome
        losses = training_losses(model, *self.seen)
        added = [penalty_of(weights, decay) for weights in (self.weights, model.state_dict())]
        self.penalty = added[0]
        before, after = float(self.losses.mean()) + added[0], float(losses.mean()) + added[1]
        outcome.notes |= {"training_loss_before": before, "training_loss": after}
        by_chance = _T * float((losses - self.losses).std()) / len(losses) ** 0.5
        if after - before > max(by_chance, slack * before) and take_back:
            model.load_state_dict(self.weights)
            outcome.unchanged = (
                f"{state.step} steps raised the training's loss on the retained data from {before:.6g} to {after:.6g} "
                f"nats, and were taken back; {self._remedy(slack)}"
            )
            warnings.warn(f"The weights are as before: {outcome.unchanged}", UserWarning, stacklevel=2)
        return outcome

    def _remedy(self, slack: float) -> str:
        """Return in words what helps; a run with slack goes on with what was handed in of the training."""
        if not slack:
            return "give the state of the training or a lower 'lr'"
        return (
            "its training may have minimised another loss than the task's mean over items (a sum of them, other "
            "weights): give a task of your own with that loss (docs/models.md)"
        )


def warn_of_a_rise(outcome: Outcome) -> None:
    """Warn where steps after shrinking were too few to bring the training's loss back to half more than before."""
    before, after = (outcome.notes[f"training_loss{when}"] for when in ("_before", ""))
    if after > _RISE * before and outcome.state is not None:
        warnings.warn(
            f"{outcome.state.step} steps after 'shrink' left the training's loss on the retained data at {after:.2g} "
            f"nats, from {before:.2g}: the model may be farther from retraining than before; raise 'budget' or "
            "'shrink'",
            UserWarning,
            stacklevel=2,
        )
