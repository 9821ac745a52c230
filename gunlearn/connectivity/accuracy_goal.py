"""What accuracies an unlearned model should have, and a penalty that adapts to them (MCU, arXiv 2505.10859)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gunlearn.connectivity.part_losses import PartLosses
from gunlearn.losses import Prediction
from gunlearn.methods.any_task.rewind import labels_of, wrong
from gunlearn.methods.base import Problem

_PENALTIES = (0.0, 0.01, 0.5)  # of the adaptive rule: forgotten enough, nearly, not yet


class AccuracyGoal:
    """The accuracies that an unlearned model should have, from the original one: on retained and on forgotten items."""

    def __init__(self, problem: Problem, held: PartLosses) -> None:
        self.held, original = held, problem.reference
        hits, labels = {}, {}
        for name in ("retain", "forget", "val"):
            hits[name], labels[name] = held.each(original, name, _hits), _labels(held, name)
        stays = torch.isin(labels["forget"], labels["retain"].unique())
        alike = torch.isin(labels["val"], labels["forget"][stays].unique())
        unseen = float(hits["val"][alike].double().mean()) if bool(alike.any()) else 0.0
        self.retain = float(hits["retain"].double().mean())
        self.forget = float(stays.double().mean()) * unseen

    def accuracies(self, model: Any) -> tuple[float, float]:
        """Return a model's accuracy on retained and on forgotten items."""
        retain, forget = (float(self.held.each(model, name, _hits).double().mean()) for name in ("retain", "forget"))
        return retain, forget

    def gap(self, retain: float, forget: float) -> float:
        """Return the mean distance of both accuracies from where they should be."""
        return (abs(retain - self.retain) + abs(forget - self.forget)) / 2

    def penalty(self, retain: float, forget: float) -> float:
        """Return the adaptive weight of the penalty for a step's accuracies."""
        if forget <= self.forget:
            return _PENALTIES[0]
        nearer = self.forget > 0 and (forget - self.forget) / self.forget < (retain - self.retain) / (self.retain or 1)
        return _PENALTIES[1] if nearer else _PENALTIES[2]


@dataclass(eq=False)
class AdaptivePenalty:
    """Weighs the forgotten items of a step."""

    goal: AccuracyGoal
    beta: float | None

    def __call__(self, predictions: dict[str, Prediction], rows: Callable[[Tensor], Tensor]) -> dict[str, Prediction]:
        retain, forget = (float((~wrong(predictions[name])).double().mean()) for name in ("retain", "forget"))
        beta = self.goal.penalty(retain, forget) if self.beta is None else self.beta
        own = predictions["forget"]
        weight = torch.full_like(own.log_prob.detach(), beta)
        return {**predictions, "forget": own.replace(weight=weight if own.weight is None else weight * own.weight)}


def _hits(prediction: Prediction) -> Tensor:
    return ~wrong(prediction)


def _labels(held: PartLosses, name: str) -> Tensor:
    """Return the labels of the items of a part `[num_items]`."""
    pieces = held.held[name][1]
    return torch.cat([labels_of(items).cpu() for items in pieces])
