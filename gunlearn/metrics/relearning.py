"""Relearning: how many steps bring back what a model has forgotten?"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gunlearn.core.modes import evaluating
from gunlearn.losses import NLL
from gunlearn.methods.any_task.baselines import OwnObjective
from gunlearn.methods.base import Problem
from gunlearn.methods.freezing import freeze
from gunlearn.metrics.base import CLASSES, LINKS, Figure
from gunlearn.metrics.problem import Evaluator
from gunlearn.metrics.view import ModelView
from gunlearn.seed import isolated_rng
from gunlearn.tasks.trial import private_copy
from gunlearn.training.callbacks import Callback, TrainControl, TrainState


class RelearnSteps(Figure):
    """Optimiser steps on the forgotten items until their labels are as probable as before unlearning.

    A copy of the model learns them all, by a new Adam: nothing but they is read. Where outputs hide what weights still
    know, it takes fewer steps than a retrained model. The measure is the mean probability of the items' own labels.

    Args:
        lr: Adam's learning rate.
        limit: steps after which it ends; a model that needs more has this number.
    """

    name, heading, words = "relearn_steps", "relearn steps", "steps to relearn what was forgotten"
    tasks, optional, format = (*LINKS, *CLASSES), True, ".0f"

    def __init__(self, lr: float = 1e-3, limit: int = 300) -> None:
        self.lr, self.limit = lr, limit

    def compute(self, view: ModelView) -> float | None:
        problem, original = view.problem, view.problem.original
        of_no_item = view.partition.forgets == ("edges",) and view.task.name not in LINKS  # an edge has no label then
        if original is None or of_no_item or problem.items["forget"][0] is None:
            return None
        known = mean_likelihood(problem, original)
        return float(steps_to_relearn(problem, view.model, known, self.lr, self.limit))


def steps_to_relearn(problem: Evaluator, model: nn.Module, known: float, lr: float, limit: int) -> int:
    """Return after how many steps of Adam on the forgotten items a copy of `model` knows them, at most `limit`.

    Args:
        problem: with the items.
        model: does not change.
        known: their mean likelihood from which they count as known, in [0, 1].
        lr: learning rate.
        limit: the most steps.
    """
    if mean_likelihood(problem, model) >= known:
        return 0
    method = OwnObjective(given=NLL(on="forget"), steps=limit, lr=lr)
    until = _UntilKnown(problem, known)
    with isolated_rng(problem.seed):
        learner = private_copy(model, problem.task).requires_grad_()
        reference = freeze(private_copy(model, problem.task))
        method.run(Problem(learner, reference, problem.partition, problem.task, problem.seed, [until]))
    return until.steps


@torch.no_grad()
def mean_likelihood(problem: Evaluator, model: nn.Module) -> float:
    """Return the mean probability of the forgotten items' own labels, in evaluation mode."""
    items, data = problem.items["forget"]
    with evaluating(model):
        return float(problem.likelihood(problem.decode(model, problem.encode(model, data), items)).mean())


class _UntilKnown(Callback):
    """Counts steps, and ends the run after the one that made the forgotten items known."""

    draws_nothing = True

    def __init__(self, problem: Evaluator, known: float) -> None:
        self.problem, self.known, self.steps = problem, known, 0

    def on_step_end(self, args: Any, state: TrainState, control: TrainControl, **kwargs: Any) -> None:
        self.steps = state.step
        control.should_training_stop |= mean_likelihood(self.problem, kwargs["model"]) >= self.known
