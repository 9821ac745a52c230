"""What all optimised methods share: an objective, the parts it reads, one loop."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from gunlearn.errors import InvalidInputError, UnsupportedMethodError
from gunlearn.losses import Loss, Objective, as_objective
from gunlearn.methods.base import Method, Outcome, Problem
from gunlearn.methods.forget_part import no_forget_items
from gunlearn.tasks.base import STOP_TARGETS, Parts, Task
from gunlearn.tasks.sampling import BatchOptions
from gunlearn.training.callbacks import Callback, TrainState
from gunlearn.training.feeding import Feed
from gunlearn.training.loop import TrainArguments, fit
from gunlearn.training.optimizers import (
    OptimizerSpec,
    PhasedOptimizer,
    SchedulerSpec,
    check_optimizer,
    check_scheduler,
    makes_its_own,
)
from gunlearn.training.step import Change, ObjectiveStep, Reference


@dataclass(frozen=True)
class GradientMethod(Method):
    """Minimises an objective over the model's parameters, starting from the trained model.

    What a method may change, each by overriding one function: `objective` and `objective_at` (phases), `rate_at` (the
    learning rate of a phase), `make_optimizer`, `parts` (what is read), `teachers` (what predictions are compared
    with), `trainable` (what learns), `penalty` (what is added to gradients), `surroundings` (the context of a pass),
    `adapt` (predictions before the losses, and a stop condition).

    Args:
        epochs: passes over the items; without `batch_size` a pass is one optimiser step.
        lr: learning rate.
        weight_decay: the optimiser's own; an L2 penalty for Adam and SGD.
        max_grad_norm: clip the gradient's norm; `None` does not.
        eval_every: epochs between evaluations on validation items, which `EarlyStopping` waits for; `None` never does.
        message_graph: what message passing reads while unlearning: `"retain"` or `"full"`.
        until: `"end"` pushes every forgotten item for all epochs. `"unseen"` lets each forgotten edge go where it
            scores like true edges that the model never saw, `"separated"` where it scores below 95 % of the retained
            edges; the run ends when nearly all are there (link prediction, objectives with a forget part; see
            `tasks/graph/score_targets.py`).
        retain_samples: each step reads so many retained items, stratified by their distance to the forget set and
            weighted so that losses are unbiased, and as many negatives; `None` reads them all.
        batch_size: each step reads the next so many items of each part, in the order of a random permutation; a pass
            is over the retained items where the objective reads any, else over the forgotten ones. `None` reads all.
        sampler: what the model reads for a batch: `"k_hop"`, all that the items' outputs depend on (exact);
            `"neighbor"`, `num_neighbors` random neighbours per layer (PyG's `NeighborLoader`; needs pyg-lib);
            `"random_node"`, random parts of the nodes without the edges between them (methods without a forget part).
        num_neighbors: neighbours per layer for `sampler="neighbor"`.
        subgraph: encode only the subgraph that the step's items depend on: `"auto"` where it has at most half of the
            edges and gives the outputs of the whole graph (tried once), `"always"` or `"never"`.
        steps: optimiser steps, in place of `epochs`.
        accumulate: read all forgotten items at each step, `batch_size` at a time, and add up their gradients. With
            `until` they are read whole in any case.
        optimizer: a name or class of `torch.optim`, or a function from parameters to an optimiser, which sets the rate.
        optimizer_options: further arguments of the named optimiser, `{"momentum": 0.9}`.
        scheduler: a name of `torch.optim.lr_scheduler`, or a function from the optimiser to a scheduler.
        scheduler_options: arguments of the named scheduler.
    """

    epochs: int = 100
    lr: float = 1e-3
    weight_decay: float = 0.0
    max_grad_norm: float | None = None
    message_graph: str = "retain"
    eval_every: int | None = None
    until: str = "end"
    retain_samples: int | None = None
    batch_size: int | None = None
    sampler: str = "k_hop"
    num_neighbors: tuple[int, ...] | None = None
    subgraph: str = "auto"
    steps: int | None = None
    accumulate: bool = False
    optimizer: OptimizerSpec = "adam"
    optimizer_options: Mapping[str, Any] | None = None
    scheduler: SchedulerSpec | None = None
    scheduler_options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Refuse bad options at construction, not at the first step."""
        self.arguments()
        _ = self.reading
        if self.message_graph not in ("retain", "full"):
            raise InvalidInputError(f"Expected 'message_graph' to be 'retain' or 'full' (got '{self.message_graph}')")
        objective = as_objective(self.objective())
        parts = objective.parts
        if self.until != "end" and self.until not in STOP_TARGETS:
            raise InvalidInputError(f"Expected 'until' to be 'end' or one of {STOP_TARGETS} (got {self.until!r})")
        if self.until != "end" and "forget" not in parts:
            raise InvalidInputError(f"Expected a method with a forget loss for 'until' (got '{self.name}')")
        if self.retain_samples is not None and not set(parts) - {"forget"}:
            raise InvalidInputError(
                f"Expected no 'retain_samples' for '{self.name}', which reads no retained items "
                f"(got {self.retain_samples})"
            )
        if self.accumulate and "forget" not in parts:
            raise InvalidInputError(f"Expected no 'accumulate' for '{self.name}', which reads no forgotten items")
        if self.accumulate and self.batch_size is None:
            raise InvalidInputError("Expected 'batch_size' with 'accumulate' (got None)")
        if self.accumulate and any(len(loss.on_parts) > 1 for _, loss in objective.terms):
            raise InvalidInputError(f"Expected losses of one part each with 'accumulate' (got {objective!r})")
        check_optimizer(self.optimizer, self.optimizer_options)
        check_scheduler(self.scheduler, self.scheduler_options)
        if makes_its_own(self.optimizer) and self.weight_decay:
            raise InvalidInputError(f"Expected no 'weight_decay' beside an optimizer's own (got {self.weight_decay})")
        if self.scheduler is not None and type(self).rate_at is not GradientMethod.rate_at:
            raise InvalidInputError(f"Expected no 'scheduler' for '{self.name}', whose phases set the learning rate")

    def arguments(self, **more: Any) -> TrainArguments:
        """Return the loop's settings."""
        return TrainArguments(
            self.epochs, self.lr, self.weight_decay, self.max_grad_norm, self.eval_every, steps=self.steps, **more
        )

    @property
    def reading(self) -> BatchOptions:
        """Return how much a step reads."""
        return BatchOptions(self.batch_size, self.sampler, self.num_neighbors, self.retain_samples, self.subgraph)

    @property
    def label(self) -> str:
        """Return the mode, where there is one, and the stop criterion, where it is not the usual one."""
        mode = getattr(self, "mode", "default")
        return mode if self.until == "end" else f"{mode} until {self.until}"

    def supports(self, task: Task, partition: Any) -> None:
        super().supports(task, partition)
        if self.until != "end":
            task.check_target(self.until, partition.data)
        if not task.shared_pass:
            for name, usual in (("message_graph", "retain"), ("subgraph", "auto"), ("sampler", "k_hop")):
                if getattr(self, name) != usual:
                    raise UnsupportedMethodError(
                        f"Expected no '{name}' for task '{task.name}', which reads no graph "
                        f"(got {getattr(self, name)!r})"
                    )

    @abstractmethod
    def objective(self) -> Loss | Objective:
        """Return the objective; losses read the parts that the task names."""

    def objective_at(self, step: int) -> Objective:
        """Return what the step after `step` steps minimises; made of terms of `objective`."""
        return as_objective(self.objective())

    def phase(self, step: int) -> str:
        """Return the name of the phase that a step belongs to, for methods that have some."""
        return ""

    def rate_at(self, step: int) -> float | None:
        """Return the learning rate of a step, for methods whose phases have their own; `None` leaves it."""
        return None

    def make_optimizer(self, problem: Problem) -> OptimizerSpec:
        """Return the optimiser, or a function that makes it: a `PhasedOptimizer` gives each phase its own."""
        return self.optimizer

    def parts(self, problem: Problem, names: Collection[str]) -> Parts:
        """Return the parts of the problem that the objective reads."""
        return problem.task.parts(problem.partition, self.message_graph, problem.model, names)

    def teachers(self, problem: Problem) -> dict[str, nn.Module]:
        """Return frozen models, by part, that predictions are compared with in the original model's place."""
        return {}

    def trainable(self, model: nn.Module) -> list[nn.Parameter] | None:
        """Return the parameters that learn; `None` for all that require a gradient."""
        return None

    def penalty(self, model: nn.Module) -> Callable[[], None] | None:
        """Return a function that adds a penalty's gradient to that of each step; recorded losses are without it."""
        return None

    def surroundings(self, problem: Problem) -> Callable[[nn.Module], AbstractContextManager]:
        """Return a function from a model to a context that each training pass enters anew; empty by default.

        One with a method `on(subgraph)` that makes the same context for a part of the graph lets steps read parts.
        """
        return lambda model: nullcontext()

    @torch.no_grad()
    def reference_outputs(self, problem: Problem, parts: Parts, around: AbstractContextManager) -> Any:
        """Return what the original model computes on the same graph and in the same surroundings as the current one.

        So the two agree before the first step, and differ by what unlearning did to the weights alone.
        """
        with around:
            return problem.task.encode(problem.reference, parts.data)

    def prepare(self, problem: Problem) -> bool:
        """Prepare the model; return whether gradients that this left on it belong to the first step."""
        return False

    def adapt(self, problem: Problem, parts: Parts) -> tuple[Change, Callable[[], bool] | None]:
        """Return a change of the current predictions before the losses, and a stop condition.

        With `until` edges at their target leave the forget losses, and the run ends when all are there.
        """
        if self.until == "end":
            return (lambda predictions, rows: predictions), None
        models = problem.model, problem.reference
        target = problem.task.target(self.until, *models, problem.partition, self.subgraph != "never")
        return target.release, target.reached

    def run(self, problem: Problem) -> Outcome:
        with only(problem.model, self.trainable(problem.model)):
            return self._run(problem)

    def _run(self, problem: Problem) -> Outcome:
        objective, task = as_objective(self.objective()), problem.task
        parts = self.parts(problem, objective.parts)
        if "forget" in objective.parts and parts.count("forget") == 0:
            raise no_forget_items(self.name)
        change, stop = self.adapt(problem, parts)
        surroundings = self.surroundings(problem)
        if parts.joint and type(self).surroundings is GradientMethod.surroundings:
            surroundings = FrozenStatistics  # else what is forgotten would enter the statistics of what stays
        references = []
        compared = {**dict.fromkeys(objective.reference_parts, problem.reference), **self.teachers(problem)}
        for teacher in dict.fromkeys(compared.values()):
            view, names = replace(problem, reference=teacher), tuple(n for n, m in compared.items() if m is teacher)
            outputs = self.reference_outputs(view, parts, surroundings(teacher))
            references.append(Reference(teacher, task, names, outputs))
        args = self.arguments(
            progress=problem.progress,
            checkpoint_dir=problem.checkpoint_dir,
            keep_gradients=self.prepare(problem),
            fingerprint=problem.fingerprint,
        )
        around = surroundings(problem.model)  # around training passes alone: callbacks see the plain model
        whole = self.accumulate or self.until != "end"
        feed = Feed(problem.model, task, parts, objective.parts, self.reading, around, whole)
        phased = type(self).objective_at is not GradientMethod.objective_at
        rated = type(self).rate_at is not GradientMethod.rate_at
        objective_at = self.objective_at if phased else lambda step: objective
        step = ObjectiveStep(problem.model, task, feed, objective_at, references, change)
        data, held_out = problem.partition.retain_data, None
        if self.eval_every is not None:
            held_out = task.validation_items(data)
            if held_out is None:
                raise InvalidInputError("Expected validation items for 'eval_every' (got data without)")

        def validate() -> float:
            return float(-task.predict(problem.model, data, held_out).log_prob.mean())

        callbacks = [*problem.callbacks, feed] if feed.draws or phased else problem.callbacks
        optimizer = self.make_optimizer(problem)
        state = fit(
            problem.model,
            step,
            args,
            [_Phases(self), *callbacks] if rated else callbacks,
            None if held_out is None else validate,
            stop,
            optimizer=optimizer,
            optimizer_options=None if makes_its_own(optimizer) else self.optimizer_options,
            scheduler=self.scheduler,
            scheduler_options=self.scheduler_options,
            steps_per_epoch=feed.steps_per_epoch,
            penalty=self.penalty(problem.model),
        )
        return Outcome(problem.model, state, {**self.notes(problem, parts), "graph": feed.reader.note})

    def notes(self, problem: Problem, parts: Parts) -> dict[str, Any]:
        """Return remarks for the result."""
        return {"message_graph": self.message_graph, "until": self.until}


class _Phases(Callback):
    """Sets the phase of a `PhasedOptimizer`, and the learning rate, before each step."""

    def __init__(self, method: GradientMethod) -> None:
        self.method = method

    def on_step_begin(self, args: Any, state: TrainState, control: Any, **kwargs: Any) -> None:
        optimizer, rate = kwargs["optimizer"], self.method.rate_at(state.step)
        if isinstance(optimizer, PhasedOptimizer):
            optimizer.phase = self.method.phase(state.step)
        if rate is not None:
            for group in optimizer.param_groups:
                group["lr"] = rate


@contextmanager
def only(model: nn.Module, parameters: Collection[nn.Parameter] | None) -> Iterator[None]:
    """Let no other parameters than these learn inside the block; `None` changes nothing."""
    chosen = None if parameters is None else {id(p) for p in parameters}
    others = [] if chosen is None else [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    try:
        for parameter in others:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


class FrozenStatistics(AbstractContextManager):
    """Batch normalisation reads its running statistics inside the block, and leaves them as they are.

    Steps on the forget set alone would otherwise make its statistics the model's.

    Args:
        model: whose layers.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        self.modes: list[bool] = []

    def __enter__(self) -> None:
        """Set evaluation mode."""
        self.modes = [layer.training for layer in self.layers]
        for layer in self.layers:
            layer.eval()

    def __exit__(self, *error: object) -> None:
        """Restore the modes."""
        for layer, mode in zip(self.layers, self.modes, strict=True):
            layer.train(mode)

    def on(self, subgraph: Any) -> FrozenStatistics:
        """Return the same context for a part of the graph."""
        return self


def freeze(model: nn.Module) -> nn.Module:
    """Set evaluation mode and take no gradients; return the model."""
    with torch.no_grad():  # a memory is brought up to date when training ends
        return model.eval().requires_grad_(False)
