"""How a curve between two models is trained: its settings, and how the point of a step is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from gunlearn.core.checks import check_choice, check_integer, check_number
from gunlearn.errors import InvalidInputError
from gunlearn.losses import NLL, BoundedAscent, Loss, Objective, as_objective
from gunlearn.training.optimizers import OptimizerSpec, SchedulerSpec, check_optimizer, check_scheduler

USUAL_STEPS = 600  # of a curve, where nobody says how many


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
        steps: optimiser steps; 600 where neither these nor `epochs` are given.
        lr: learning rate.
        t: how the point of a step is drawn, a name of `DRAWS`.
        forgetting: weight of `BoundedAscent(bound)` on the forgotten items, which keeps the curve from passing through
            models that remember; 0 leaves it out.
        bound: see `BoundedAscent`, in nats.
        l2: weight of half the squared norm of the moving weights at the point, as in arXiv 1802.10026.
        batch_size: items of each part per step; `None` leaves it to the loader that the data came with, else reads all.
            Of more than 4096 items of independent images or rows, `None` reads 128 of each part.
        epochs: passes over the items, in place of `steps`.
        optimizer: a name or class of `torch.optim`, or a function from parameters to an optimiser.
        optimizer_options: further arguments of the named optimiser.
        scheduler: a name of `torch.optim.lr_scheduler`, or a function from the optimiser to one.
        scheduler_options: arguments of the named scheduler.
        max_grad_norm: clip the gradient's norm.

    Raises:
        InvalidInputError: a value out of range, both `steps` and `epochs`, an unknown optimiser or scheduler, or
            options beside a function that makes one.
    """

    steps: int | None = None
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
        check_number("lr", self.lr, positive=True)
        check_choice("t", self.t, tuple(DRAWS))
        check_number("forgetting", self.forgetting, minimum=0.0)
        check_number("bound", self.bound, positive=True)
        check_number("l2", self.l2, minimum=0.0)
        for name, value in (("steps", self.steps), ("batch_size", self.batch_size), ("epochs", self.epochs)):
            if value is not None:
                check_integer(name, value, minimum=1)
        if self.steps is not None and self.epochs is not None:
            raise InvalidInputError(f"Expected 'steps' or 'epochs' (got {self.steps} and {self.epochs})")
        if self.max_grad_norm is not None:
            check_number("max_grad_norm", self.max_grad_norm, positive=True)
        check_optimizer(self.optimizer, self.optimizer_options)
        check_scheduler(self.scheduler, self.scheduler_options)

    @property
    def num_steps(self) -> int | None:
        """The number of steps; `None` where `epochs` says it."""
        return None if self.epochs is not None else USUAL_STEPS if self.steps is None else self.steps

    def objective(self, given: Loss | Objective | None) -> Objective:
        """Return the objective of the steps: the caller's, by default the retained items' loss, and `forgetting`."""
        found = as_objective(NLL(on="retain") if given is None else given)
        return found + self.forgetting * BoundedAscent(bound=self.bound) if self.forgetting else found
