"""Go on with the training, without the forgotten data."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from gunlearn.core.checks import check_integer
from gunlearn.errors import InvalidInputError
from gunlearn.losses import Objective
from gunlearn.methods.any_task.brief_teacher import taught
from gunlearn.methods.any_task.going_on import Spending, checked_training
from gunlearn.methods.any_task.handed_on import Making
from gunlearn.methods.any_task.lowered_rate import LoweredRate
from gunlearn.methods.any_task.second_look import OWN_LOSS, Look, warn_of_a_rise
from gunlearn.methods.any_task.shrunk import shrinking_of
from gunlearn.methods.any_task.still_moving import StillMoving
from gunlearn.methods.any_task.training_budget import fall
from gunlearn.methods.base import BY_MODE, Outcome, Problem, check_interval
from gunlearn.methods.freezing import RetainedStatistics
from gunlearn.methods.gradient import GradientMethod
from gunlearn.tasks.base import Parts
from gunlearn.training.another_loss import check_loss, known_loss, read_as, warn_of_a_fall
from gunlearn.training.arguments import TrainArguments
from gunlearn.training.optimizers import SchedulerSpec, goes_on
from gunlearn.training.run import reading_of
from gunlearn.training.state_sources import NONE
from gunlearn.training.step import Change
from gunlearn.training.training_state import TrainingState
from gunlearn.training.unseen import UNSEEN_WEIGHT, Unseen, find_unseen, training_objective, weight_of

_RAMP = 0.25  # share of the steps over which the rate of an optimiser without state rises
_USUAL_RATE = 1e-3
_SLACK = 0.05  # rise of the training's loss that an optimiser with its state may bring: retraining may, too


@dataclass(frozen=True)
class ContinuedTraining(GradientMethod):
    """Go on with the training on the retained data: its loss, its optimiser, and the optimiser's state.

    A new Adam divides its first gradients by themselves, so each weight moves by the whole learning rate; on a trained
    model that throws away what it learned. The state of the training keeps steps small. Hand it in as `training` (what
    `gunlearn.train` returned) or as `optimizer` (your own, or its `state_dict`). Without either a new Adam starts from
    estimated second moments (`gunlearn.training.estimated_state`), and from the weight decay that the trained weights
    show. The learning rate stays for three quarters of the steps and then falls to 0, which settles the weights. Steps
    that raised the training's loss on the retained data are taken back (not after `shrink`, nor with a teacher). For
    requests of more than ten items Adam forgets its old second moments over a third of the usual steps (not of
    `epochs`, nor with a teacher). Where Adam's memory says that the training had not settled
    (`gunlearn.training.mean_step`), and no checkpoint lies within the budget, a run on nodes that are read all at once
    first moves back by as many of the training's mean steps as it takes, so that it makes no longer training (not under
    `steps` or `epochs`, where the rate fell, with `shrink`, `saliency` or a teacher); `notes["start"]` says so.

    Args:
        training: the state of the training: a `Result` of `gunlearn.train`, its `training`, the folder or file that it
            was saved to, or a folder of checkpoints of your own training (PyTorch, Lightning, transformers); `"none"`
            does without one in a grid too.
        optimizer: the optimiser that trained the model or its `state_dict`, which go on, in place of `training`; or a
            name, for one with estimated state where it is Adam or AdamW, else without. A `state_dict` does not know
            its model: that of another one of the same shapes is taken, with a warning where its number of steps is not
            the one named here, or its gradients were much smaller.
        lr: learning rate; `None` goes on with that of the state, or is 1e-3. Where a scheduler lowered it, on a graph,
            that is the last one but at least a tenth of the highest, and the highest again once the predictions of
            forgotten items have moved twice as far as those of retained ones (6 steps and fewer of a `budget` leave
            none for that look); else (other items, `teacher_share`, `shrink`) the highest.
        weight_decay: the training's penalty; `None` is that of the state, or estimated (0 for AdamW).
        training_steps: optimiser steps of the training, where neither `training` nor the `optimizer` counts them.
        budget: share of the training's steps that may be spent; `None` is 1/20 for up to 10 items (nodes: that touch at
            most a tenth of the graph), 1/8 for more nodes and other items, 1/5 for more edges; of that 12 steps at
            most, all passes counted, for a trace of a large graph: up to 10 nodes, or their features, that are at most
            a ten-thousandth of the training items and touch at most a thousandth of a graph of at least 50,000 nodes,
            where the `training` is known to have settled (`gunlearn.training.settled`), nobody gave `budget`, `steps`,
            `epochs` or `at_most`, and neither `teacher_share` nor `shrink` is set. It needs `training` or
            `training_steps`.
        steps: optimiser steps, or passes (`epochs`), in place of `budget`; 50 where nothing is known, with all passes.
        unseen_weight: weight of a divergence that draws forgotten edges to the scores that retraining is expected to
            give them (`gunlearn.tasks.graph.retrained_scores`): under link prediction with validation edges, for
            requests of edges alone. 0 leaves it out.
        at_most: where `budget` is `None`, the steps are doubled, up to this share of the training's, as long as the
            predictions of forgotten items move on (`gunlearn.methods.any_task.still_moving`), and are at least 20 (of a
            training of which this share is fewer, with the looks, they are as `budget` says);
            `None` is a third, and lets a trace of a large graph (see `budget`) take fewer.
        teacher_share: share of the steps that train a new model without the forgotten items; its predictions of them,
            as sure as the original is of validation items (of classes, where there are some), are what `unseen_weight`
            draws the model to then. For items that a training without weight decay learned by heart: continuing alone
            does not undo that. A warning says where its loss on validation items is a quarter above the original's.
            Batch normalisation is for graphs alone. 0 for none.
        shrink: factor on the trained weight matrices before the first step, gains and biases aside (arXiv 1910.08475
            shrinks and perturbs before it goes on). Below 1 it takes back growth that memory needs, at the price of
            more steps. An adapter of peft is scaled: its change of the weights is shrunk, not its factors.
        towards: weights of the model before it was fine-tuned, for a pretrained model: `shrink` is then the factor on
            the difference from them, of all trained parameters, and may be 0. A model of the same architecture, its
            `state_dict`, or a file or folder of safetensors. An adapter is that difference: it needs none, or `"base"`.
    """

    training: Any = None
    epochs: int = BY_MODE
    lr: float = BY_MODE
    weight_decay: float = BY_MODE
    training_steps: int | None = None
    budget: float | None = None
    at_most: float | None = None
    unseen_weight: float = UNSEEN_WEIGHT
    teacher_share: float = 0.0
    shrink: float = 1.0
    towards: Any = None

    name = "continued_training"
    summary = "go on with the training, its optimiser's state included, without the forgotten data"
    needs = "retained data"
    cost = "a twentieth to a third of the training's steps"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"default": {}, "estimated": {"training": NONE}}

    @property
    def starts_anew(self) -> bool:
        """Return whether no state of the training goes on."""
        return self.training in (None, NONE) and not goes_on(self.optimizer)

    @property
    def label(self) -> str:
        return "taught" if self.teacher_share else "estimated" if self.training == NONE else super().label

    def __post_init__(self) -> None:
        given = [name for name in ("at_most", "budget") if getattr(self, name) is not None]
        check_interval(self, "in (0, 1]", *(["shrink"] if self.towards is None else []), *given)
        check_interval(self, "in [0, 1]", "shrink")
        check_interval(self, ">= 0", "unseen_weight")
        if self.saliency is not None and self.shrink < 1:
            raise InvalidInputError("Expected 'saliency', which holds weights, or 'shrink' below 1 (got both)")
        check_interval(self, "in [0, 1)", "teacher_share")
        if self.teacher_share:
            self._check_teacher()
        if self.training is not None and goes_on(self.optimizer):
            raise InvalidInputError("Expected 'training' or an 'optimizer' that goes on (got both)")
        if self.training not in (None, NONE) and self.optimizer_options:
            raise InvalidInputError(
                f"Expected no 'optimizer_options' beside 'training', whose optimiser goes on (got "
                f"{dict(self.optimizer_options)})"
            )
        if self.budget is not None and not (self.steps is None and self.epochs is None):
            raise InvalidInputError(f"Expected 'budget', or 'steps' or 'epochs' (got {self.budget:g} and another)")
        if self.training_steps is not None:
            check_integer("training_steps", self.training_steps, minimum=1)
        super().__post_init__()

    def _check_teacher(self) -> None:
        """Refuse what a teacher would ignore."""
        if self.epochs is not None:
            raise InvalidInputError(f"Expected 'steps' or 'budget' beside 'teacher_share' (got {self.epochs} epochs)")
        if self.message_graph != "retain" or not self.unseen_weight:
            raise InvalidInputError(
                "Expected message_graph='retain' and 'unseen_weight' above 0 beside 'teacher_share' (got "
                f"{self.message_graph!r} and {self.unseen_weight:g})"
            )

    def objective(self) -> Objective:
        return training_objective(None)

    def parts(self, problem: Problem, names: Collection[str]) -> Parts:
        """Return the retained data as the training read it, unless another message graph is asked for."""
        if self.message_graph != "retain":
            return super().parts(problem, names)
        return problem.task.training_parts(problem.partition.retain_data)

    def arguments(self, **more: Any) -> TrainArguments:
        rate, penalty = (_USUAL_RATE if self.lr is None else self.lr), self.weight_decay or 0.0
        return TrainArguments(
            self.epochs or 0, rate, penalty, self.max_grad_norm, self.eval_every, steps=self.steps, **more
        )

    def make_scheduler(self, problem: Problem, steps: int) -> SchedulerSpec | None:
        """Return the caller's scheduler, or one that lets the rate fall to 0 over the last quarter of the steps."""
        return self.scheduler or fall(steps)

    def run(self, problem: Problem) -> Outcome:
        problem = replace(problem, task=problem.task.for_training())
        if not any(parameter.requires_grad for parameter in problem.model.parameters()):
            raise InvalidInputError("Expected a model with trainable parameters (got none that require grad)")
        shrinking = shrinking_of(problem.model, problem.task, self.shrink, self.towards)
        known = checked_training(self, problem)
        spending = Spending.of(self, problem, known)
        start, reading = spending.start, read_as(known.state, self.reading)
        moving, rate = spending.watches(problem, reading.batch_size)
        own_callbacks = [callback for callback in (moving, rate) if callback is not None]
        problem = replace(problem, callbacks=[*problem.callbacks, *own_callbacks])  # their state is checkpointed
        changes = spending.changes(problem.partition)
        making = Making(start.make, *changes, lambda _: shrinking())
        steps = spending.steps if moving is None else moving.most
        own = replace(self._ready(problem, known.state, steps, making, start.rises), moving=moving, rate=rate)
        if spending.learning:
            make = Making(start.make, *changes)
            unseen, doubt = taught(self.name, problem, self.unseen_weight, spending.learning, make, own.reading)
            if doubt:
                self.doubted(doubt, spending.learning)
            own = replace(own, unseen=unseen)
        if spending.checks:
            check_loss(known.source, problem, self.reading)
        data = problem.partition.retain_data
        look = Look(problem.model, data, problem.task, own.reading, problem.seed) if spending.looks else None
        outcome = GradientMethod.run(own, problem)
        if look is not None:
            self._looked(look, outcome, spending, own, making.made, problem)
        return self._recorded(outcome, spending, own, making)

    def _looked(
        self, look: Look, outcome: Outcome, spending: Spending, own: _Run, optimizer: Any, problem: Problem
    ) -> None:
        """Give the outcome the trained weights where the steps raised the loss; a large fall is warned of."""
        source, keep = spending.known.source, self.shrink < 1 or spending.learning > 0
        losses, slack = look.after(outcome, optimizer), 0.0 if source is None else _SLACK
        if losses is None or outcome.state is None:
            return
        if not keep and (losses.rose(slack) or (losses.rose_far and not known_loss(source))):
            remedy = OWN_LOSS if slack else "give the state of the training or a lower 'lr'"
            if spending.goes_back:
                remedy = f"the steps back may not have fitted these weights, or {remedy}"
            look.take_back(outcome, losses, remedy)
        if not keep and not known_loss(source):
            warn_of_a_fall(losses.before, losses.after, losses.penalty, problem, own.reading)
        if self.shrink < 1:
            warn_of_a_rise(losses, outcome.state.step)

    def _recorded(self, outcome: Outcome, spending: Spending, own: _Run, making: Making) -> Outcome:
        """Return the outcome with notes, and the state that the next request goes on with."""
        known, spent = spending.known, spending.passes + spending.learning
        outcome.notes |= {"start": spending.start.words, "shrink": self.shrink, "passes": spent}
        if spending.goes_back and not outcome.unchanged:
            outcome.notes["start"] += f", and {spending.steps} of its mean steps back"
        outcome.notes["unseen_weight"] = weight_of(own.unseen)
        if spending.learning:
            outcome.notes["teacher_steps"] = spending.learning
        if own.rate is not None:
            outcome.notes["rate"] = f"{own.rate.factor:.3g} of its highest"
        if known.total is not None and outcome.state is not None:
            taken, total = outcome.state.step, known.total
            outcome.notes["price"] = round((taken + spent) / total, 4)
            reading = reading_of(own)
            outcome.training = making.state(outcome.model, known.state, taken, total, reading, growth=known.growth)
        if outcome.unchanged:
            outcome.training = known.state
        return outcome

    def doubted(self, doubt: str, steps: int) -> None:
        """Say that a teacher may know too little; `auto` takes none then."""
        warnings.warn(
            f"{doubt}: it may lead away from retraining; raise 'teacher_share' or 'budget', or leave it out",
            UserWarning,
            stacklevel=2,
        )

    def _ready(
        self, problem: Problem, state: TrainingState | None, steps: int | None, making: Making, rises: bool
    ) -> _Run:
        """Return the run, whose optimiser is ready, as the training read its items."""
        reading = {} if state is None else {k: v for k, v in state.reading.items() if getattr(self, k) != v}
        handed: dict[str, Any] = {"training": None, "budget": None, "lr": BY_MODE, "weight_decay": BY_MODE}
        handed |= {"optimizer": making, "optimizer_options": None, "steps": steps}  # it has its options
        unseen = None
        if self.message_graph == "retain" and not self.teacher_share:
            sampler = reading.get("sampler", self.sampler)
            unseen = find_unseen(problem.task, problem.reference, problem.partition, self.unseen_weight, sampler)
        return _Run(**{**vars(self), **reading, **handed}, rises=rises, unseen=unseen)


@dataclass(frozen=True)
class _Run(ContinuedTraining):
    """One run, with an optimiser that is ready; `rises`: its rate is raised from 0; `unseen` adds to the loss.

    `moving` says how many steps it takes, `rate` what its rate is multiplied by.
    """

    rises: bool = False
    unseen: Unseen | None = None
    moving: StillMoving | None = None
    rate: LoweredRate | None = None

    def objective(self) -> Objective:
        return training_objective(self.unseen)

    def parts(self, problem: Problem, names: Collection[str]) -> Parts:
        return super().parts(problem, names) if self.unseen is None else self.unseen.parts

    def surroundings(self, problem: Problem) -> Callable[[torch.nn.Module], AbstractContextManager]:
        """Return a context in which forgotten items, read in the same pass, are no part of batch statistics."""
        if self.unseen is None or not self.unseen.parts.joint:
            return super().surroundings(problem)
        number = int(problem.partition.retain_data.num_nodes)
        retained = torch.arange(int(self.unseen.parts.data.num_nodes)) < number
        return lambda model: RetainedStatistics(model, retained)

    def given_logits(self, problem: Problem) -> dict[str, torch.Tensor]:
        return {} if self.unseen is None else {"forget": self.unseen.logits}

    def make_scheduler(self, problem: Problem, steps: int) -> SchedulerSpec | None:
        moving, rate = self.moving, self.rate
        last = steps if moving is None else lambda: moving.steps
        return self.scheduler or fall(last, _RAMP if self.rises else 0.0, None if rate is None else lambda: rate.factor)

    def adapt(self, problem: Problem, parts: Parts) -> tuple[Change, Callable[[], bool] | None]:
        change, stop = super().adapt(problem, parts)
        return change, stop if self.moving is None else self.moving.ends
