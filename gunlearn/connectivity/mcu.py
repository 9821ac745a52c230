"""MCU: unlearning along a curve from the original model to a pre-unlearned one (arXiv 2505.10859)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from gunlearn.connectivity.accuracy_goal import AccuracyGoal, AdaptivePenalty
from gunlearn.connectivity.curve_finding import find_curve
from gunlearn.connectivity.curve_settings import CurveSettings
from gunlearn.connectivity.ends_of_paths import with_weights_of
from gunlearn.connectivity.part_losses import PartLosses
from gunlearn.connectivity.path_families import BezierPath
from gunlearn.connectivity.tensor_mask import important_tensors, tensor_importance
from gunlearn.errors import InvalidInputError, InvalidTypeError, UnsupportedMethodError
from gunlearn.losses import NLL, BoundedAscent, Objective
from gunlearn.methods import METHODS
from gunlearn.methods.base import Method, Outcome, Problem, check_interval, check_whole
from gunlearn.methods.forget_part import no_forget_items
from gunlearn.tasks.base import Task
from gunlearn.tasks.trial import plain_copy
from gunlearn.training.held_weights import HeldWeights
from gunlearn.training.optimizers import OptimizerSpec, check_optimizer


@dataclass(frozen=True)
class MCU(Method):
    r"""A curve of low retained loss from the original model to a pre-unlearned one, and the best model on it.

    A quadratic Bezier curve minimises :math:`L_{retain} - \beta \min(L_{forget}, b)` at points drawn uniformly, over
    the tensors of a mask. The model is the point of `[low, 1]` whose accuracy on retained and on forgotten items comes
    nearest to the original model's on retained and on unseen items: mean absolute gap. `notes["spectrum"]` has all
    points that were tried, with their accuracies, and `notes["wanted"]` those that they are held against.

    The accuracy that forgotten items should have is that on validation items of their classes, and 0 for a class of
    which nothing stays.

    `beta=None` adapts the penalty at each step, as the paper does: 0 where the step's forgotten items are as wrong as
    they should be, 0.01 where the share by which their accuracy is above its goal is below the signed share by which
    the retained items' accuracy is above theirs, else 0.5.

    Here the forgotten items' loss is bounded; in the authors' code it is not (`bound=math.inf`), and they train by SGD.
    They also read half of the retained items, and interpolate accuracies between the points; neither is done here.

    Args:
        pre_method: makes the pre-unlearned model, a name or `"name:variant"`.
        pre_options: its options.
        epochs: passes over the retained items, one step each where a step reads all of them. With 0 nothing is done.
        steps: optimiser steps, in place of `epochs`; `gunlearn.unlearn` takes 300 for images, where neither is given.
        lr: learning rate.
        batch_size: items of each part per step, see `CurveSettings`: `None` reads all, of more than 4096 images 128.
        optimizer: see `gunlearn.unlearn`.
        beta: weight of the penalty; `None` adapts it.
        bound: :math:`b`, in nats.
        share: of all weights that move, in whole tensors: those that matter most to the forgotten items.
        spared: of all weights that stay, those that matter most to the retained items.
        low: where the search for the best point begins.
        points: how many are tried.
    """

    pre_method: str = "graddiff"
    pre_options: Mapping[str, Any] | None = None
    epochs: int = 300
    steps: int | None = None
    lr: float = 1e-2
    batch_size: int | None = None
    optimizer: OptimizerSpec = "adam"
    beta: float | None = None
    bound: float = 8.0
    share: float = 0.5
    spared: float = 0.1
    low: float = 0.75
    points: int = 6

    name = "mcu"
    summary = "a curve from the original to a pre-unlearned model, and the point on it that forgets as it should"
    paper = "arXiv 2505.10859"
    tasks = ("link_prediction", "node_classification", "graph_classification", "image_classification")
    needs = "retained data"
    cost = "another method's, then `epochs` passes"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"default": {}}

    def __post_init__(self) -> None:
        check_whole(self, epochs=0, points=1)
        for name in ("steps", "batch_size"):
            if getattr(self, name) is not None:
                check_whole(self, **{name: 1})
        check_interval(self, "> 0", "lr")
        check_interval(self, "in (0, 1]", "share")
        check_interval(self, "in [0, 1)", "spared")
        check_interval(self, "in [0, 1]", "low")
        if self.beta is not None:
            check_interval(self, ">= 0", "beta")
        if not self.bound > 0:
            raise InvalidInputError(f"Expected 'bound' > 0 (got {self.bound})")
        check_optimizer(self.optimizer, None)
        self._before()

    def _before(self) -> Method:
        """Return the method that makes the pre-unlearned model."""
        name = str(self.pre_method).partition(":")[0]
        try:
            if name == self.name:
                raise InvalidInputError("another method makes that model")
            cls, variant = METHODS.variant(self.pre_method)
            return METHODS.construct(name, cls, variant, dict(self.pre_options or {}))
        except (InvalidInputError, InvalidTypeError) as error:
            raise type(error)(f"Expected a method as 'pre_method', and 'pre_options' of it (got: {error})") from error

    def supports(self, task: Task, partition: Any) -> None:
        super().supports(task, partition)
        before = self._before()
        if before.rewrites:
            raise UnsupportedMethodError(
                f"Expected a method as 'pre_method' that keeps the model's modules, since no path of weights leads to "
                f"others (got '{before.name}')"
            )
        before.supports(task, partition)
        if task.validation_items(partition.retain_data) is None:
            raise UnsupportedMethodError(
                f"Expected validation items for '{self.name}', which says by them how wrong forgotten items should be "
                "(got none)"
            )

    def objective(self) -> Objective:
        """Return what is small along the curve; the penalty's items are weighted at each step."""
        return NLL(on="retain") + BoundedAscent(bound=self.bound)

    def _settings(self) -> CurveSettings:
        return CurveSettings(
            steps=self.steps,
            epochs=self.epochs if self.steps is None else None,
            lr=self.lr,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
        )

    def run(self, problem: Problem) -> Outcome:
        task, partition = problem.task, problem.partition
        if not self.epochs and self.steps is None:
            return Outcome(problem.model)
        held = PartLosses(task, partition, problem.reference, seed=problem.seed)
        if not held.number("forget"):
            raise no_forget_items(self.name)
        own = replace(problem, model=plain_copy(problem.model), callbacks=(), checkpoint_dir=None, progress=False)
        before = self._before().run(own)
        path = BezierPath(problem.model, with_weights_of(problem.model, before.model))
        goal = AccuracyGoal(problem, held)
        state = find_curve(
            path,
            task,
            partition,
            self.objective(),
            self._settings(),
            seed=problem.seed,
            callbacks=problem.callbacks,
            held=self._mask(problem, held, path),
            change=AdaptivePenalty(goal, self.beta),
            fingerprint=problem.fingerprint,
            progress=problem.progress,
            checkpoint_dir=problem.checkpoint_dir,
        )
        spectrum = []
        for k in range(self.points):
            t = self.low + (1 - self.low) * (k / (self.points - 1) if self.points > 1 else 1)
            path.put(problem.model, t, held.recompute)
            spectrum.append((t, *goal.accuracies(problem.model)))
        best = min(spectrum, key=lambda point: (goal.gap(*point[1:]), -point[0]))
        model = path.put(problem.model, best[0], held.recompute)
        told = [dict(zip(("t", "retain_acc", "forget_acc"), point, strict=True)) for point in spectrum]
        wanted = {"retain_acc": goal.retain, "forget_acc": goal.forget}
        notes = {"t": best[0], "spectrum": told, "wanted": wanted, "pre_method": self.pre_method}
        return Outcome(model, state, notes)

    def _mask(self, problem: Problem, held: PartLosses, path: BezierPath) -> HeldWeights:
        """Return what holds the tensors of bends outside the mask."""
        model = plain_copy(problem.model).requires_grad_(True)
        found = [tensor_importance(model, problem.task, *held.held[name]) for name in ("retain", "forget")]
        sizes = {name: path.ends.weights[0][name].numel() for name in path.moving}
        known = [{name: values[name] for name in sizes} for values in found]
        moving = important_tensors(known[0], known[1], sizes, self.share, self.spared)
        masks = [torch.full_like(bend, name in moving, dtype=torch.bool) for name, bend in path.bent()]
        return HeldWeights([bend for _, bend in path.bent()], masks)
