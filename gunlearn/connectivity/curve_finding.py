"""Find a curve of low loss between two models: the bends of a path learn through the one training loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from gunlearn.connectivity.weight_paths import WeightPath
from gunlearn.core.checks import check_choice, check_integer, check_number
from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.losses import NLL, BoundedAscent, Loss, Objective, ObjectiveValue, as_objective
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Parts, Task
from gunlearn.tasks.sampling import BatchOptions
from gunlearn.training.callbacks import Callback, TrainState, check_callbacks
from gunlearn.training.feeding import Feed
from gunlearn.training.held_weights import HeldWeights
from gunlearn.training.loop import TrainArguments, fit
from gunlearn.training.optimizers import OptimizerSpec, SchedulerSpec, makes_its_own
from gunlearn.training.step import Change, ObjectiveStep, Reference
from gunlearn.training.super_loss import curriculum_of


def uniform_t() -> float:
    """Return a point of [0, 1], each as likely."""
    return float(torch.rand(()))


def normal_t() -> float:
    """Return a point near the middle: N(0.5, 0.1) cut to [0, 1], as in Cheng and Amiri's code (arXiv 2504.06407)."""
    return float((0.5 + 0.1 * torch.randn(())).clamp(0, 1))


#: How the point of a step is drawn, by name.
DRAWS: dict[str, Callable[[], float]] = {"uniform": uniform_t, "normal": normal_t}


@dataclass(frozen=True)
class CurveSettings:
    r"""How a curve is trained.

    Each step draws `t`, evaluates the objective on the model at that point, and moves the bends along its exact
    gradient, the factors :math:`w_k(t)` included. (The authors' code copies the gradient without them and multiplies
    the rate by them instead, which is the same for SGD, not for Adam.)

    Args:
        steps: optimiser steps.
        lr: learning rate.
        t: how the point of a step is drawn, a name of `DRAWS`.
        forgetting: weight of `BoundedAscent(bound)` on the forgotten items, which keeps the curve from passing through
            models that remember; 0 leaves it out.
        bound: see `BoundedAscent`, in nats.
        l2: weight of half the squared norm of the moving weights at the point, as in arXiv 1802.10026.
        batch_size: items of each part per step; `None` reads all.
        epochs: passes over the items, in place of `steps`.
        optimizer: a name or class of `torch.optim`, or a function from parameters to an optimiser.
        optimizer_options: further arguments of the named optimiser.
        scheduler: a name of `torch.optim.lr_scheduler`, or a function from the optimiser to one.
        scheduler_options: arguments of the named scheduler.
        max_grad_norm: clip the gradient's norm.

    Raises:
        InvalidInputError: a value out of range.
    """

    steps: int = 600
    lr: float = 1e-2
    t: str = "uniform"
    forgetting: float = 0.0
    bound: float = 8.0
    l2: float = 0.0
    batch_size: int | None = None
    epochs: int | None = None
    optimizer: OptimizerSpec = "adam"
    optimizer_options: Mapping[str, Any] | None = None
    scheduler: SchedulerSpec | None = None
    scheduler_options: Mapping[str, Any] | None = None
    max_grad_norm: float | None = None

    def __post_init__(self) -> None:
        check_integer("steps", self.steps, minimum=1)
        check_number("lr", self.lr, positive=True)
        check_choice("t", self.t, tuple(DRAWS))
        check_number("forgetting", self.forgetting, minimum=0.0)
        check_number("bound", self.bound, positive=True)
        check_number("l2", self.l2, minimum=0.0)
        for name, value in (("batch_size", self.batch_size), ("epochs", self.epochs)):
            if value is not None:
                check_integer(name, value, minimum=1)

    def objective(self, given: Loss | Objective | None) -> Objective:
        """Return the objective of the steps: the caller's, by default the retained items' loss, and `forgetting`."""
        found = as_objective(NLL(on="retain") if given is None else given)
        return found + self.forgetting * BoundedAscent(bound=self.bound) if self.forgetting else found


def find_curve(
    path: WeightPath,
    task: Task,
    partition: Any,
    objective: Loss | Objective | None = None,
    settings: CurveSettings | None = None,
    *,
    original: nn.Module | None = None,
    data: Any = None,
    seed: int = 0,
    callbacks: Sequence[Callback] = (),
    held: HeldWeights | None = None,
    change: Change | None = None,
    fingerprint: str = "",
    progress: bool = False,
    checkpoint_dir: str | Path | None = None,
) -> TrainState:
    """Train the bends of a path, in place; return the state of the loop.

    Batch normalisation trains on the statistics of each step's items.

    Args:
        path: with at least one bend.
        task: what the models predict.
        partition: what was forgotten, from which the parts of the objective are read; `None` where nothing was.
        objective: what is small along the curve; by default the loss of the retained items.
        settings: see `CurveSettings`.
        original: the model that losses with a reference compare with.
        data: training data, where there is no partition.
        seed: of points, batches and dropout.
        callbacks: as of `gunlearn.unlearn`.
        held: entries of bends that stay as they are.
        change: changes predictions before the losses read them, of objectives that read forgotten items.
        fingerprint: names the run; a checkpoint of another run is refused.
        progress: show a progress bar.
        checkpoint_dir: write checkpoints of the bends there, and resume from them.

    Raises:
        InvalidInputError: a path without bends, or an objective that compares with a model where none is given.
        DivergenceError: NaN or infinity on the curve.
    """
    settings = CurveSettings() if settings is None else settings
    check_callbacks(callbacks)
    if not isinstance(path, WeightPath):
        raise InvalidTypeError(f"Expected a path to train (got {type(path).__name__})")
    if not path.num_bends:
        raise InvalidInputError("Expected a path with bends to train (got a straight line, which has none)")
    full = settings.objective(objective)
    if full.reference_parts and original is None:
        raise InvalidInputError(f"Expected 'original', the model that {full!r} compares with (got None)")
    with isolated_rng(seed):
        model = task.adopt(path.template)
        parts = _parts(task, partition, data, model, full)
        feed = Feed(model, task, parts, full.parts, BatchOptions(settings.batch_size))
        references = [] if original is None else [_reference(original, task, parts, full)]
        inner = ObjectiveStep(model, task, feed, lambda step: full, references, change)
        options = None if makes_its_own(settings.optimizer) else settings.optimizer_options
        return fit(
            path,
            _CurveStep(path, inner, DRAWS[settings.t], settings.l2),
            TrainArguments(
                settings.epochs or 0,
                settings.lr,
                max_grad_norm=settings.max_grad_norm,
                progress=progress,
                checkpoint_dir=checkpoint_dir,
                steps=None if settings.epochs else settings.steps,
                fingerprint=fingerprint,
            ),
            [*callbacks, feed, *curriculum_of(full)],
            optimizer=settings.optimizer,
            optimizer_options=options,
            scheduler=settings.scheduler,
            scheduler_options=settings.scheduler_options,
            steps_per_epoch=feed.steps_per_epoch,
            held=held,
        )


@dataclass(eq=False)
class _CurveStep:
    """Evaluates the objective of one step on the model at a drawn point."""

    path: WeightPath
    inner: ObjectiveStep
    draw: Callable[[], float]
    l2: float

    def __call__(self) -> ObjectiveValue:
        return self.path.call(self.draw(), self._value)

    def _value(self, model: nn.Module) -> ObjectiveValue:
        value = cast(ObjectiveValue, self.inner())  # a feed without accumulation evaluates in one piece
        if not self.l2:
            return value
        moving = set(self.path.moving)
        squares: list[Tensor] = [p.square().sum() for name, p in model.named_parameters() if name in moving]
        norm = 0.5 * torch.stack(squares).sum()
        return ObjectiveValue(value.total + self.l2 * norm, {**value.terms, "l2": norm.detach()})


def _parts(task: Task, partition: Any, data: Any, model: nn.Module, objective: Objective) -> Parts:
    if partition is not None:
        return task.parts(partition, "retain", model, objective.parts)
    if "forget" in objective.parts:
        raise InvalidInputError(f"Expected a request for {objective!r}, which reads forgotten items (got None)")
    return task.training_parts(data)


def _reference(original: nn.Module, task: Task, parts: Parts, objective: Objective) -> Reference:
    with torch.no_grad():
        return Reference(original, task, objective.reference_parts, task.encode(original.eval(), parts.data))
