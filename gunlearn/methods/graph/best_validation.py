"""The choice among the models along the way of a run: the one that does best on validation items."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.core.modes import evaluating
from gunlearn.methods.any_task.rewind import labels_of, wrong
from gunlearn.methods.base import Problem
from gunlearn.training.callbacks import StatefulCallback, TrainControl, TrainState


class BestOnValidation(StatefulCallback):
    """Keeps the weights with the best accuracy on validation items, a mean over classes, the earliest of equal ones.

    At the end the model gets them back; `notes` hold `chosen`, the number of steps taken by then, and
    `validation_accuracy`. Without a look the last weights stay.

    Args:
        problem: whose task has validation items.
        due: of the number of a step, from 0, whether the model after it is looked at.
    """

    draws_nothing = True

    def __init__(self, problem: Problem, due: Callable[[int], bool]) -> None:
        self.task, self.data, self.due = problem.task, problem.partition.retain_data, due
        self.items = problem.task.validation_items(self.data)
        self.best: dict[str, Any] = {}
        self.notes: dict[str, Any] = {}

    @torch.no_grad()
    def on_step_end(self, args: Any, state: TrainState, control: TrainControl, **kwargs: Any) -> None:
        if not self.due(state.step - 1):
            return
        model: nn.Module = kwargs["model"]
        with evaluating(model):
            right = ~wrong(self.task.predict(model, self.data, self.items))
        score = mean_over_classes(right, labels_of(self.items))
        if not self.best or score > self.best["score"]:
            weights = copy.deepcopy(model.state_dict())
            self.best = {"score": score, "step": state.step, "epoch": state.epoch, "model": weights}

    def on_train_end(self, args: Any, state: TrainState, control: TrainControl, **kwargs: Any) -> None:
        if self.best:
            kwargs["model"].load_state_dict(self.best["model"])
            state.best_epoch, state.best_metric = self.best["epoch"], 1 - self.best["score"]
            self.notes = {"chosen": self.best["step"], "validation_accuracy": self.best["score"]}

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = dict(state["best"])


def mean_over_classes(right: Tensor, label: Tensor) -> float:
    """Return the mean over the classes in `label` `[num_items]` of the share of items that are `right`, a mask."""
    _, place, count = label.unique(return_inverse=True, return_counts=True)
    hits = torch.zeros_like(count).index_add(0, place, right.long())
    return float((hits.double() / count).mean())
