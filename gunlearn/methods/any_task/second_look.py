"""Steps that ended farther from the minimum that retraining looks for are taken back."""

from __future__ import annotations

import copy
import warnings
from typing import Any, NamedTuple

from torch import nn

from gunlearn.methods.base import Outcome
from gunlearn.tasks.base import Task
from gunlearn.tasks.sampling import BatchOptions
from gunlearn.training.another_loss import LEAST
from gunlearn.training.minimised_loss import decay_of, penalty_of, training_losses
from gunlearn.training.processes import world_size

#: What helps where steps of a training of one's own raised the task's loss.
OWN_LOSS = (
    "its training may have minimised another loss than the task's mean over items (a sum of them, other weights): give "
    "a task of your own with that loss (docs/models.md)"
)
#: Passes that a look before and one after take: three draws each, forward alone, cost about as much as a step each.
LOOKS = 2
_RISE = 0.5
_T = 2.92  # Student's t for three draws, 5 % on one side


class TwoLosses(NamedTuple):
    """The training's loss on the retained data before and after a run, with the optimiser's L2 penalty, in nats.

    Attributes:
        before: at the trained weights.
        after: of the result.
        by_chance: what the draws of dropout and negatives explain of the difference (a paired t test at 5 %).
        penalty: the part of `before` that is penalty.
        likelihood: the loss before and after without a penalty.
        decoupled: the optimiser's decay is none of the loss (AdamW), under which weights do not rest where it does.
    """

    before: float
    after: float
    by_chance: float
    penalty: float
    likelihood: tuple[float, float]
    decoupled: bool = False

    def rose(self, slack: float) -> bool:
        """Return whether the loss rose by more than chance and the share `slack` of it."""
        return not self.decoupled and self.after - self.before > max(self.by_chance, slack * self.before)

    @property
    def rose_far(self) -> bool:
        """Whether the likelihood alone fell by half of itself and more, and not by next to nothing.

        A penalty that is too heavy for the loss, as that of a sum is for a mean, would hide it.
        """
        before, after = self.likelihood
        return after - before > max(self.by_chance, _RISE * before, LEAST)


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
        self.losses = training_losses(model, *self.seen) if world_size() == 1 else None

    def after(self, outcome: Outcome, optimizer: Any) -> TwoLosses | None:
        """Return the losses before and after a run, which the notes then hold; `None` where they say nothing.

        Args:
            outcome: with the model after the run.
            optimizer: of the run, whose L2 penalty belongs to the loss; `None` where nobody made one.
        """
        if self.losses is None or optimizer is None or outcome.state is None or not outcome.state.step:
            return None
        decay = decay_of(optimizer, outcome.model)
        losses = training_losses(outcome.model, *self.seen)
        added = [penalty_of(weights, decay or {}) for weights in (self.weights, outcome.model.state_dict())]
        by_chance = _T * float((losses - self.losses).std()) / len(losses) ** 0.5
        alone = float(self.losses.mean()), float(losses.mean())
        found = TwoLosses(alone[0] + added[0], alone[1] + added[1], by_chance, added[0], alone, decay is None)
        outcome.notes |= {"training_loss_before": found.before, "training_loss": found.after}
        return found

    def take_back(self, outcome: Outcome, losses: TwoLosses, remedy: str) -> None:
        """Give the model its weights from before the run, and say so."""
        assert outcome.state is not None
        outcome.model.load_state_dict(self.weights)
        outcome.unchanged = (
            f"{outcome.state.step} steps raised the training's loss on the retained data from {losses.before:.6g} to "
            f"{losses.after:.6g} nats, and were taken back; {remedy}"
        )
        warnings.warn(f"The weights are as before: {outcome.unchanged}", UserWarning, stacklevel=2)


def warn_of_a_rise(losses: TwoLosses, steps: int) -> None:
    """Warn where steps after shrinking were too few to bring the training's loss back to half more than before."""
    if losses.rose_far:
        warnings.warn(
            f"{steps} steps after 'shrink' left the training's loss on the retained data at {losses.after:.2g} nats, "
            f"from {losses.before:.2g}: the model may be farther from retraining than before; raise 'budget' or "
            "'shrink'",
            UserWarning,
            stacklevel=2,
        )
