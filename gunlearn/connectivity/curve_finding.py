"""Find a curve of low loss between two models: the bends of a path learn through the one training loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from gunlearn.connectivity.curve_fingerprint import curve_fingerprint
from gunlearn.connectivity.curve_settings import DRAWS, CurveSettings
from gunlearn.connectivity.ends_of_paths import module_of
from gunlearn.connectivity.weight_paths import WeightPath
from gunlearn.core.modes import evaluating
from gunlearn.errors import InvalidInputError, InvalidTypeError, UnsupportedModelError
from gunlearn.losses import Loss, Objective, ObjectiveValue
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Parts, Task
from gunlearn.tasks.named import as_task
from gunlearn.tasks.sampling import BatchOptions
from gunlearn.training.callbacks import Callback, TrainState, check_callbacks
from gunlearn.training.feeding import Feed
from gunlearn.training.held_weights import HeldWeights
from gunlearn.training.loop import TrainArguments, fit
from gunlearn.training.step import Change, ObjectiveStep, Reference
from gunlearn.training.super_loss import curriculum_of


def find_curve(
    path: WeightPath,
    task: str | Task,
    partition: Any,
    objective: Loss | Objective | None = None,
    settings: CurveSettings | None = None,
    *,
    original: Any = None,
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
        original: the model (or the result with it) that losses with a reference compare with.
        data: training data, where there is no partition.
        seed: of points, batches and dropout.
        callbacks: as of `gunlearn.unlearn`.
        held: entries of bends that stay as they are.
        change: changes predictions before the losses read them, of objectives that read forgotten items.
        fingerprint: names the run; a checkpoint of another run is refused. By default one of all that decides how a
            curve goes: the settings, the path with its ends and bends, the objective, the task, the data and the seed.
        progress: show a progress bar.
        checkpoint_dir: write checkpoints of the bends there, and resume from them.

    Raises:
        InvalidInputError: a path without bends, or an objective that compares with a model where none is given.
        UnsupportedModelError: a model with reentrant checkpoints of activations, which go around the path's weights.
        CheckpointError: `checkpoint_dir` holds a checkpoint of another run.
        DivergenceError: NaN or infinity on the curve.
    """
    settings = CurveSettings() if settings is None else settings
    check_callbacks(callbacks)
    task, original = as_task(task), None if original is None else module_of(original)
    if not isinstance(path, WeightPath):
        raise InvalidTypeError(f"Expected a path to train (got {type(path).__name__})")
    if not path.num_bends:
        raise InvalidInputError("Expected a path with bends to train (got a straight line, which has none)")
    full = settings.objective(objective)
    if full.reference_parts and original is None:
        raise InvalidInputError(f"Expected 'original', the model that {full!r} compares with (got None)")
    if checkpoint_dir is not None and not fingerprint:
        read = data if partition is None else partition.data
        fingerprint = curve_fingerprint(
            path, task, partition, read, full, settings, original=original, seed=seed, held=held, change=change
        )
    with isolated_rng(seed):
        model = task.adopt(path.template)
        parts = _parts(task, partition, data, model, full)
        feed = Feed(model, task, parts, full.parts, BatchOptions(settings.batch_size))
        references = [] if original is None else [_reference(original, task, parts, full)]
        inner = ObjectiveStep(model, task, feed, lambda step: full, references, change)
        return fit(
            path,
            _CurveStep(path, inner, DRAWS[settings.t], settings.l2),
            TrainArguments(
                settings.epochs or 0,
                settings.lr,
                max_grad_norm=settings.max_grad_norm,
                progress=progress,
                checkpoint_dir=checkpoint_dir,
                steps=settings.num_steps,
                fingerprint=fingerprint,
            ),
            [*callbacks, feed, *curriculum_of(full)],
            optimizer=settings.optimizer,
            optimizer_options=settings.optimizer_options,
            scheduler=settings.scheduler,
            scheduler_options=settings.scheduler_options,
            steps_per_epoch=feed.steps_per_epoch,
            held=held,
        )


@dataclass(eq=False)
class _CurveStep:
    """Evaluates the objective of one step on the model at a drawn point.

    Its gradient is computed while the model holds the weights of that point, since checkpoints of activations
    (`torch.utils.checkpoint`) run the model again in the backward pass. The value that is returned has this gradient.
    """

    path: WeightPath
    inner: ObjectiveStep
    draw: Callable[[], float]
    l2: float
    checked: bool = False

    def __call__(self) -> ObjectiveValue:
        return self.path.call(self.draw(), self._with_gradient)

    def _with_gradient(self, model: nn.Module) -> ObjectiveValue:
        value = self._value(model)
        if not value.total.requires_grad:  # under `torch.no_grad`, or for the loop to refuse
            return value
        if not self.checked:
            _refuse_reentrant(value.total)
            self.checked = True
        bends = list(self.path.bends)
        found = torch.autograd.grad(value.total, bends, allow_unused=True)
        known = [(bend, g) for bend, g in zip(bends, found, strict=True) if g is not None]
        nothing = torch.stack([((bend - bend.detach()) * g).sum() for bend, g in known]).sum()  # 0, with the gradient
        return ObjectiveValue(value.total.detach() + nothing, value.terms)

    def _value(self, model: nn.Module) -> ObjectiveValue:
        value = cast(ObjectiveValue, self.inner())  # a feed without accumulation evaluates in one piece
        if not self.l2:
            return value
        moving = set(self.path.moving)
        squares: list[Tensor] = [p.square().sum() for name, p in model.named_parameters() if name in moving]
        norm = 0.5 * torch.stack(squares).sum()
        return ObjectiveValue(value.total + self.l2 * norm, {**value.terms, "l2": norm.detach()})


def _refuse_reentrant(total: Tensor) -> None:
    """Refuse checkpoints of activations whose backward pass adds to weights by itself: no gradient comes through."""
    seen, left = set(), [total.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        if node.name() == "CheckpointFunctionBackward":
            raise UnsupportedModelError(
                "Expected checkpoints of activations with use_reentrant=False, since others go around the path's "
                "weights (got one with use_reentrant=True)"
            )
        seen.add(node)
        left += [following for following, _ in node.next_functions]


def _parts(task: Task, partition: Any, data: Any, model: nn.Module, objective: Objective) -> Parts:
    if partition is not None:
        return task.parts(partition, "retain", model, objective.parts)
    if "forget" in objective.parts:
        raise InvalidInputError(f"Expected a request for {objective!r}, which reads forgotten items (got None)")
    return task.training_parts(data)


def _reference(original: nn.Module, task: Task, parts: Parts, objective: Objective) -> Reference:
    with torch.no_grad(), evaluating(original):
        return Reference(original, task, objective.reference_parts, task.encode(original, parts.data))
