"""What all optimised methods share: an objective, the parts it reads, one loop."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gunlearn.errors import InvalidInputError
from gunlearn.losses import Objective, ObjectiveValue, Prediction, as_objective
from gunlearn.methods.base import Method, Outcome, Problem
from gunlearn.methods.loop import TrainArguments, fit
from gunlearn.tasks import Parts


@dataclass(frozen=True)
class GradientMethod(Method):
    """Minimises an objective over all parameters, starting from the trained model.

    Args:
        epochs: optimiser steps.
        lr: Adam's learning rate.
        weight_decay: Adam's L2 penalty.
        max_grad_norm: clip the gradient's norm; `None` does not.
        message_graph: what message passing reads while unlearning: `"retain"` or `"full"`.
    """

    epochs: int = 100
    lr: float = 1e-3
    weight_decay: float = 0.0
    max_grad_norm: float | None = None
    message_graph: str = "retain"

    def __post_init__(self) -> None:
        """Refuse bad options at construction, not at the first step."""
        TrainArguments(self.epochs, self.lr, self.weight_decay, self.max_grad_norm)
        if self.message_graph not in ("retain", "full"):
            raise InvalidInputError(f"Expected 'message_graph' to be 'retain' or 'full' (got '{self.message_graph}')")
        self.objective()

    @abstractmethod
    def objective(self) -> Objective:
        """The objective; losses read the parts that the task names."""

    def surroundings(self, problem: Problem) -> AbstractContextManager:
        """A context, entered anew around each training pass (message scaling); nothing by default."""
        return nullcontext()

    def adapt(self, problem: Problem, parts: Parts) -> tuple[Callable[[dict], dict], Callable[[], bool] | None]:
        """A change of the current predictions before the losses, and a stop condition; nothing by default."""
        return (lambda predictions: predictions), None

    def run(self, problem: Problem) -> Outcome:
        """See `Method.run`."""
        objective, task = as_objective(self.objective()), problem.task
        parts = task.parts(problem.partition, self.message_graph)
        change, stop = self.adapt(problem, parts)
        reference = Reference(problem, objective) if objective.reference_parts else None
        args = TrainArguments(
            self.epochs,
            self.lr,
            self.weight_decay,
            self.max_grad_norm,
            progress=problem.progress,
            checkpoint_dir=problem.checkpoint_dir,
            fingerprint=problem.fingerprint,
        )
        around = self.surroundings(problem)  # around training passes alone: callbacks see the plain model

        def step() -> ObjectiveValue:
            items = parts.sample(objective.parts)
            with around:
                outputs = task.encode(problem.model, parts.data)
            current = {name: task.decode(problem.model, outputs, items[name]) for name in objective.parts}
            return objective(change(current), None if reference is None else reference(items))

        state = fit(problem.model, step, args, problem.callbacks, stop=stop)
        return Outcome(problem.model, state, self.notes(problem))

    def notes(self, problem: Problem) -> dict:
        """Remarks for the result."""
        return {"message_graph": self.message_graph}


class Reference:
    """Predictions of the frozen original model, computed once wherever the items stay the same.

    The original model reads the graph it was trained on, with plain messages.
    """

    @torch.no_grad()
    def __init__(self, problem: Problem, objective: Objective) -> None:
        """Run the original model over the original data once."""
        self.model, self.task, self.parts = problem.reference, problem.task, objective.reference_parts
        self.outputs: Tensor | None = self.task.encode(self.model, problem.partition.data)
        self.kept: dict[str, Prediction] = {}

    @torch.no_grad()
    def __call__(self, items: dict) -> dict[str, Prediction]:
        """Reference predictions of the parts that the objective compares with."""
        out = {}
        for name in self.parts:
            if name not in self.kept:
                prediction = self.task.decode(self.model, self.outputs, items[name]).detach()
                if not getattr(items[name], "fixed", False):
                    out[name] = prediction
                    continue
                self.kept[name] = prediction
            out[name] = self.kept[name]
        return out


def freeze(model: nn.Module) -> nn.Module:
    """Evaluation mode, no gradients."""
    return model.eval().requires_grad_(False)
