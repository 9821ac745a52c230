"""What all optimised methods share: an objective, the parts it reads, and what a method may do otherwise."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.errors import InvalidInputError
from gunlearn.losses import Objective, as_objective
from gunlearn.methods.base import Outcome, Problem
from gunlearn.methods.freezing import FrozenStatistics, freeze, only
from gunlearn.methods.gradient_options import GradientOptions
from gunlearn.methods.minimise import minimise
from gunlearn.tasks.base import Parts
from gunlearn.training.callbacks import TrainState
from gunlearn.training.optimizer_state import unwrapped
from gunlearn.training.optimizers import OptimizerSpec, SchedulerSpec
from gunlearn.training.step import Change

__all__ = ["FrozenStatistics", "GradientMethod", "freeze", "only"]


@dataclass(frozen=True)
class GradientMethod(GradientOptions):
    """Minimises an objective over the model's parameters, starting from the trained model.

    What a method may change, each by overriding one function: `objective` and `objective_at` (phases), `rate_at` (the
    learning rate of a phase), `turn` (the batch of a part), `make_optimizer`, `make_scheduler`, `parts` (what is read),
    `teachers` (what predictions are compared with), `given_logits` (in their place), `trainable` (what learns),
    `penalty` (what is added to gradients), `surroundings` (the context of a pass), `adapt` (predictions before the
    losses, and a stop condition).
    Its options are those of `gunlearn.methods.gradient_options.GradientOptions`.
    """

    def __post_init__(self) -> None:
        object.__setattr__(self, "optimizer", unwrapped(self.optimizer))
        super().__post_init__()
        if self.scheduler is not None and self.overrides("rate_at"):
            raise InvalidInputError(f"Expected no 'scheduler' for '{self.name}', whose phases set the learning rate")

    @classmethod
    def overrides(cls, function: str) -> bool:
        """Return whether a method has its own of one of the functions that it may change."""
        return getattr(cls, function) is not getattr(GradientMethod, function)

    def objective_at(self, step: int) -> Objective:
        """Return what the step after `step` steps minimises; made of terms of `objective`."""
        return as_objective(self.objective())

    def phase(self, step: int) -> str:
        """Return the name of the phase that a step belongs to, for methods that have some."""
        return ""

    def turn(self, part: str, step: int) -> int:
        """Return which batch of a part a step reads, for methods whose steps read one part at a time."""
        return step

    def rate_at(self, step: int) -> float | None:
        """Return the learning rate of a step, for methods whose phases have their own; `None` leaves it."""
        return None

    def make_optimizer(self, problem: Problem) -> OptimizerSpec:
        """Return the optimiser, or a function that makes it: a `PhasedOptimizer` gives each phase its own."""
        return self.optimizer

    def make_scheduler(self, problem: Problem, steps: int) -> SchedulerSpec | None:
        """Return the scheduler of a run of so many steps, or a function from the optimiser to one."""
        return self.scheduler

    def parts(self, problem: Problem, names: Collection[str]) -> Parts:
        """Return the parts of the problem that the objective reads."""
        return problem.task.parts(problem.partition, self.message_graph, problem.model, names)

    def teachers(self, problem: Problem) -> dict[str, nn.Module]:
        """Return frozen models, by part, that predictions are compared with in the original model's place."""
        return {}

    def given_logits(self, problem: Problem) -> Mapping[str, Tensor]:
        """Return logits `[num_items, ...]` by part, which predictions are compared with in a model's place."""
        return {}

    def trainable(self, model: nn.Module) -> list[nn.Parameter] | None:
        """Return the parameters that learn; `None` for all that require a gradient."""
        return None

    def penalty(self, model: nn.Module) -> Callable[[TrainState], None] | None:
        """Return a function that adds a penalty's gradient to that of each step; recorded losses are without it.

        It gets the state of the run, which says how far that is.
        """
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
            return minimise(self, problem)

    def notes(self, problem: Problem, parts: Parts) -> dict[str, Any]:
        """Return remarks for the result."""
        return {"message_graph": self.message_graph, "until": self.until}
