"""One run of an optimised method: what its steps read and compare with, then the loop."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn

from gunlearn.errors import InvalidInputError
from gunlearn.losses import as_objective
from gunlearn.methods.base import Outcome, Problem
from gunlearn.methods.forget_part import no_forget_items
from gunlearn.methods.freezing import FrozenStatistics
from gunlearn.methods.saliency import hold_others
from gunlearn.nn.kernels.shared_product import shared_product
from gunlearn.tasks.base import Parts
from gunlearn.tasks.items.statistics import statistics_note
from gunlearn.training.callbacks import Callback, TrainState
from gunlearn.training.feeding import Feed
from gunlearn.training.loop import fit
from gunlearn.training.optimizers import PhasedOptimizer, makes_its_own
from gunlearn.training.step import ObjectiveStep, Reference
from gunlearn.training.super_loss import curriculum_of

if TYPE_CHECKING:
    from gunlearn.methods.gradient import GradientMethod


def minimise(method: GradientMethod, problem: Problem) -> Outcome:
    """Run the loop on a problem's model as a method says, in place.

    Raises:
        EmptyForgetSetError: the objective reads forgotten items, and there are none.
        InvalidInputError: `eval_every` without validation items.
    """
    objective = as_objective(method.objective())
    parts = method.parts(problem, objective.parts)
    if "forget" in objective.parts and parts.count("forget") == 0:
        raise no_forget_items(method.name)
    change, stop = method.adapt(problem, parts)
    surroundings = method.surroundings(problem)
    if parts.moves_statistics(objective.parts) and not method.overrides("surroundings"):
        surroundings = FrozenStatistics  # else what is forgotten would enter the statistics of what stays
    held = hold_others(method, problem)
    given = method.given_logits(problem)
    original = {name: problem.reference for name in objective.reference_parts if name not in given}
    references = _references(method, problem, original | method.teachers(problem), parts, surroundings)
    args = method.arguments(
        progress=problem.progress,
        checkpoint_dir=problem.checkpoint_dir,
        keep_gradients=method.prepare(problem),
        fingerprint=problem.fingerprint,
    )
    around = surroundings(problem.model)  # around training passes alone: callbacks see the plain model
    whole = method.accumulate or method.until != "end"
    feed = Feed(problem.model, problem.task, parts, objective.parts, method.reading, around, whole, method.turn)
    phased = method.overrides("objective_at")
    objective_at = method.objective_at if phased else lambda step: objective
    validate = None if method.eval_every is None else _validation(problem)
    callbacks = [*problem.callbacks, feed] if feed.draws or phased else problem.callbacks
    callbacks = [*callbacks, *curriculum_of(objective)]
    optimizer = method.make_optimizer(problem)
    # A stop criterion reads the weights that the next step reads.
    with shared_product(getattr(parts.data, "x", None) if stop is not None else None):
        state = fit(
            problem.model,
            ObjectiveStep(problem.model, problem.task, feed, objective_at, references, change, given),
            args,
            [_Phases(method), *callbacks] if method.overrides("rate_at") else callbacks,
            validate,
            stop,
            optimizer=optimizer,
            optimizer_options=None if makes_its_own(optimizer) else method.optimizer_options,
            scheduler=method.make_scheduler(problem, args.steps_of(feed.steps_per_epoch)),
            scheduler_options=method.scheduler_options,
            steps_per_epoch=feed.steps_per_epoch,
            penalty=method.penalty(problem.model),
            held=held,
        )
    notes = {**method.notes(problem, parts), "graph": feed.reader.note}
    if held is not None:
        notes["salient"] = held.moving_share
    stays = getattr(around, "freezes_statistics", False)
    notes |= statistics_note(problem.model, "" if stays else "moved by the retained data that was read")
    return Outcome(problem.model, state, notes)


def _references(
    method: GradientMethod,
    problem: Problem,
    compared: dict[str, nn.Module],
    parts: Parts,
    surroundings: Callable[[nn.Module], AbstractContextManager],
) -> list[Reference]:
    """Return what predictions are compared with: `compared` holds a frozen model for each part."""
    references = []
    for teacher in dict.fromkeys(compared.values()):
        view, names = replace(problem, reference=teacher), tuple(n for n, m in compared.items() if m is teacher)
        outputs = method.reference_outputs(view, parts, surroundings(teacher))
        references.append(Reference(teacher, problem.task, names, outputs))
    return references


def _validation(problem: Problem) -> Callable[[], float]:
    """Return a function that computes the model's mean loss on validation items, in nats."""
    data, task = problem.partition.retain_data, problem.task
    held_out = task.validation_items(data)
    if held_out is None:
        raise InvalidInputError("Expected validation items for 'eval_every' (got data without)")
    return lambda: float(-task.predict(problem.model, data, held_out).log_prob.mean())


class _Phases(Callback):
    """Sets the phase of a `PhasedOptimizer`, and the learning rate, before each step."""

    draws_nothing = True

    def __init__(self, method: GradientMethod) -> None:
        self.method = method

    def on_step_begin(self, args: Any, state: TrainState, control: Any, **kwargs: Any) -> None:
        optimizer, rate = kwargs["optimizer"], self.method.rate_at(state.step)
        if isinstance(optimizer, PhasedOptimizer):
            optimizer.phase = self.method.phase(state.step)
        if rate is not None:
            for group in optimizer.param_groups:
                group["lr"] = rate
