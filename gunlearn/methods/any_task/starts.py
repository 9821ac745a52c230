"""How continued training starts: with the optimiser that goes on, or with a new one and estimates in place of it."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gunlearn.errors import UnsupportedModelError
from gunlearn.methods.any_task.lowered_rate import LOWERED
from gunlearn.methods.base import Problem
from gunlearn.methods.freezing import learning_like
from gunlearn.methods.gradient import GradientMethod
from gunlearn.seed import isolated_rng
from gunlearn.training.estimated_state import (
    POINTS,
    TrainingGradient,
    estimate_second_moments,
    estimate_weight_decay,
    set_second_moments,
)
from gunlearn.training.from_scratch import fresh_like
from gunlearn.training.highest_rate import highest_rates
from gunlearn.training.inner_model import learning_names
from gunlearn.training.optimizer_state import steps_taken
from gunlearn.training.optimizers import find_optimizer, make_optimizer, makes_its_own
from gunlearn.training.resumed_optimizer import resumed_optimizer


@dataclass(frozen=True)
class Start:
    """How a run starts.

    Args:
        words: for the record.
        make: makes the optimiser from the parameters.
        changes: of its settings for the run.
        passes: over the data that were spent on it.
        rises: the learning rate is raised from 0.
    """

    words: str
    make: Callable[[Sequence[nn.Parameter]], Any]
    changes: tuple[Callable[[Any], None], ...] = ()
    passes: int = 0
    rises: bool = False


def warn_of_other_steps(source: Any, named: int | None) -> None:
    """Warn where an optimiser, or its `state_dict`, counts other steps of the training than the caller names.

    Nothing in a bare `state_dict` says of which model it is: another model's state of the same shapes goes on too. A
    rate or a weight decay beside it is refused.
    """
    steps = steps_taken(source)
    if named is None or steps is None or steps == named:
        return
    who, says = "optimiser", f"budgets and prices are shares of {named}; without it the optimiser's count is taken"
    if isinstance(source, Mapping):
        who = "optimiser's state_dict"
        says = (
            "is it that of the training which ended in this model? A state_dict does not know its model; the optimiser "
            "itself does (optimizer=optimizer)"
        )
    warnings.warn(f"the {who} counts {steps} steps, where training_steps={named} was named: {says}", stacklevel=2)


def from_state(source: Any, model: nn.Module, lr: float | None, weight_decay: float | None) -> Start:
    """Return the start with an optimiser that goes on, for `source` see `resumed_optimizer`.

    Its rate is `lr`, else its own, or the highest one of the training if a scheduler lowered it.
    """
    names = learning_names(model)
    _warn_of_a_rate_near_zero(source)

    def settle(optimizer: Any) -> None:
        for group, highest in zip(optimizer.param_groups, highest_rates(source), strict=True):
            group["lr"] = highest if lr is None else lr
            group.pop("initial_lr", None)
            if weight_decay is not None:
                group["weight_decay"] = weight_decay

    return Start(
        "the state of the training", lambda parameters: resumed_optimizer(source, parameters, names), (settle,)
    )


def _warn_of_a_rate_near_zero(source: Any) -> None:
    """Warn where an optimiser was made with more than ten times the highest rate that it tells of each group.

    `ReduceLROnPlateau`, `CyclicLR` and loops that set the rate leave no trace of the highest but that one.
    """
    if not isinstance(source, Optimizer):
        return
    highest, made = max(highest_rates(source)), float(source.defaults.get("lr") or 0.0)
    usual = inspect.signature(type(source)).parameters.get("lr")  # groups with rates of their own may name no other
    if highest < LOWERED * made and (usual is None or made != usual.default):
        warnings.warn(
            f"The optimiser goes on at its learning rate of {highest:.2g}, and it was made with {made:.2g}: where a "
            "scheduler or the loop lowered the rate, steps at this one hardly change the model; set the training's "
            "highest in its param_groups, or hand in its state, which knows all (training=, what gunlearn.KeepState "
            "kept)",
            UserWarning,
            stacklevel=2,
        )


def check_source(source: Any, model: nn.Module) -> None:
    """Raise `InvalidInputError` if an optimiser or state is not of this model; neither changes.

    Its state is copied for that, so it is for runs that end in an error anyway: of two, this one is the cause.
    """
    from_state(source, model, None, None).make([p for p in model.parameters() if p.requires_grad])


def estimated(
    method: GradientMethod, problem: Problem, lr: float, weight_decay: float | None, room: int | None
) -> Start:
    """Return the start with a new optimiser, as the method names it, and what is estimated of the training.

    Args:
        method: its optimiser, and how it reads items.
        problem: with the trained model.
        lr: learning rate.
        weight_decay: `None` estimates it.
        room: passes that may be spent; estimates that need more are left out. `None` for any number.
    """
    rising = "a new optimiser, its rate raised from 0"
    if makes_its_own(method.optimizer):
        return Start(rising, method.optimizer, rises=True)
    kind, passes, moments = find_optimizer(method.optimizer), 0, None
    with isolated_rng(problem.seed):
        if weight_decay is None and (room == 0 or kind is torch.optim.AdamW):
            weight_decay = 0.0  # AdamW's decay is no L2 penalty: the gradient does not show it
        if weight_decay is None:
            model = learning_like(copy.deepcopy(problem.reference), problem.model)
            gradient = TrainingGradient(model, problem.partition.retain_data, problem.task, method.reading)
            weight_decay, passes = estimate_weight_decay(gradient)[0], 1
        if kind in (torch.optim.Adam, torch.optim.AdamW) and (room is None or passes + POINTS <= room):
            moments = _second_moments(method, problem, weight_decay)
            passes += 0 if moments is None else POINTS

    def make(parameters: Sequence[nn.Parameter]) -> Any:
        made = make_optimizer(method.optimizer, parameters, lr, weight_decay, method.optimizer_options)
        if moments is not None:
            set_second_moments(made, moments)
        return made

    return Start(rising if moments is None else "estimated second moments", make, (), passes, rises=moments is None)


def _second_moments(method: GradientMethod, problem: Problem, weight_decay: float) -> list[Tensor] | None:
    """Return estimated second moments; `None` for models that nobody can draw anew."""
    try:
        fresh = fresh_like(problem.model)
    except UnsupportedModelError:
        return None
    moved = TrainingGradient(fresh, problem.partition.retain_data, problem.task, method.reading)
    start = [p.detach().clone() for p in moved.parameters]
    end = [p.detach() for p in problem.model.parameters() if p.requires_grad]
    return estimate_second_moments(moved, start, end, weight_decay)
