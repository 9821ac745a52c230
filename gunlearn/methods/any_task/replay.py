"""Go back to a checkpoint of the training, and take its last steps again without the forgotten data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn

from gunlearn.errors import InvalidInputError
from gunlearn.methods.any_task.handed_on import Making, group_settings
from gunlearn.methods.any_task.second_look import LOOKS, OWN_LOSS, Look
from gunlearn.methods.any_task.training_budget import share_of
from gunlearn.methods.base import Method, Outcome, Problem, check_interval
from gunlearn.tasks.sampling import BatchOptions
from gunlearn.training.another_loss import CHECK, check_loss, checks_loss, known_loss, read_as
from gunlearn.training.arguments import TrainArguments
from gunlearn.training.checkpoint_weights import weights_for
from gunlearn.training.from_scratch import train_from_scratch
from gunlearn.training.inner_model import inner_model, learning_names
from gunlearn.training.repeated_rates import repeated
from gunlearn.training.resumed_optimizer import resumed_optimizer
from gunlearn.training.same_items import warn_of_other_items
from gunlearn.training.settled import growth_rate
from gunlearn.training.state_sources import as_training_state
from gunlearn.training.training_state import TrainingState
from gunlearn.training.unseen import UNSEEN_WEIGHT, find_unseen, weight_of


@dataclass(frozen=True)
class Replay(Method):
    """Go back to a checkpoint of the training and take the last steps again without the forgotten data.

    The result has as many steps behind it as the original, so it does not drift where training ended before it settled,
    as continued training does; what was learned by heart before the checkpoint stays. With nothing forgotten it gives
    the original's weights, bit for bit, on a CPU and where a step reads all items: batches, and what a GPU draws, are
    drawn anew. Where it raised the loss of a training of your own on the retained data by half, it is taken back. It is
    what slices of SISA (arXiv 1912.03817) do with data that came last.

    Args:
        training: the state of the training, see `ContinuedTraining`.
        budget: share of the training's steps that may be spent: it goes back to the earliest checkpoint within.
            `None` is as for `ContinuedTraining`.
        unseen_weight: see `ContinuedTraining`.
    """

    training: Any = None
    budget: float | None = None
    unseen_weight: float = UNSEEN_WEIGHT

    name = "replay"
    summary = "take the last steps of the training again without the forgotten data"
    needs = "retained data"
    cost = "a twentieth to a fifth of the training's steps"
    not_options: ClassVar[dict[str, str]] = {
        "optimizer": "; it goes back to a checkpoint, which no optimiser holds: hand in training=, what "
        "gunlearn.KeepState kept or a folder of checkpoints, or take method 'continued_training'"
    }

    def __post_init__(self) -> None:
        check_interval(self, ">= 0", "unseen_weight")
        if self.budget is not None:
            check_interval(self, "in (0, 1]", "budget")

    def run(self, problem: Problem) -> Outcome:
        state = as_training_state(self.training)
        if state is None:
            raise InvalidInputError(
                "Expected 'training', the state of the model's training with its checkpoints, as gunlearn.train "
                "returns it and gunlearn.KeepState keeps it (got none); method 'continued_training' does without"
            )
        state.check_model(problem.reference)
        warn_of_other_items(state, problem.task, problem.partition.data)
        share = share_of(problem.partition) if self.budget is None else self.budget
        moment = state.earliest(share * state.total)
        if moment is None:
            back = [f"{(state.steps - m.step) / state.total:.1%}" for m in state.moments if m.step < state.steps]
            remedy = "raise 'budget' to the smallest of these" if back else "method 'continued_training' needs none"
            raise InvalidInputError(
                f"Expected a checkpoint at most {share:.1%} of the training's steps before its end (got "
                f"{', '.join(back) or 'none'}); {remedy}"
            )
        model, steps = problem.model, state.steps - moment.step
        learning = learning_names(model)
        growth, passes = growth_rate(state, model), passes_beside(state)
        check_loss(state, problem, BatchOptions())
        read = read_as(state, BatchOptions())
        look = Look(model, problem.partition.retain_data, problem.task, read, problem.seed) if passes else None
        inner_model(model).load_state_dict(weights_for(moment.weights, inner_model(model)))
        if problem.fresh is not None:
            problem.fresh.put(model)
        args = TrainArguments(epochs=0, steps=steps, keep="last", **state.reading, **problem.loop_settings)

        sampler = state.reading.get("sampler", "k_hop")
        unseen = find_unseen(problem.task, problem.reference, problem.partition, self.unseen_weight, sampler)

        def make(parameters: Sequence[nn.Parameter]) -> Any:
            if moment.rng is not None:  # here, since batches draw their seed before
                torch.set_rng_state(moment.rng)
            return resumed_optimizer(
                replace(state, steps=moment.step, optimizer=moment.optimizer), parameters, learning
            )

        making = Making(make)
        taken = train_from_scratch(
            model,
            problem.partition.retain_data,
            problem.task,
            args,
            problem.callbacks,
            making,
            None if state.rates is None else repeated(state.rates, moment.step),
            unseen,
        )
        notes = {
            "from_step": moment.step,
            "passes": passes,
            "price": round((steps + passes) / state.total, 4),
            "unseen_weight": weight_of(unseen),
        }
        before = tuple(m for m in state.moments if m.step <= moment.step)
        making.settings = group_settings(state.optimizer["param_groups"])  # of the end, not of the checkpoint
        handed = making.state(model, state, 0, state.total, state.reading, before, growth)
        outcome = Outcome(model, taken, notes, training=handed)
        losses = None if look is None else look.after(outcome, making.made)
        if look is not None and losses is not None and losses.rose_far:
            look.take_back(outcome, losses, OWN_LOSS)
            outcome.training = state
        return outcome


def passes_beside(state: TrainingState) -> int:
    """Return the passes that hold the loss of a training of one's own before and after a run."""
    return 0 if known_loss(state) else LOOKS + (CHECK if checks_loss(state) else 0)
