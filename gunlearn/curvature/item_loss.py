"""The training loss of independent items, read in batches, and products with its curvature."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.core.checks import check_choice
from gunlearn.curvature.products import CURVATURES, Curvature, Products
from gunlearn.curvature.training_loss import TrainingLoss, gradient, learning_parameters, second_order
from gunlearn.losses import Prediction
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Task
from gunlearn.tasks.items.array_parts import ArrayItems
from gunlearn.tasks.items.tables import rows_at


@dataclass(frozen=True)
class ItemTrainingLoss:
    r"""`L(theta) = -(1/n) sum_i log p_i(theta)` over some items of a table, in evaluation mode, a batch at a time.

    So batch normalisation computes with its running statistics, and an item's loss does not depend on the others. What
    a transform draws is the same at each pass. A removed item is left out and still counts in `n`.

    Attributes:
        model: called as the task calls it.
        data: a table of items, `x` and `y`; those of a data set are loaded when they are read.
        index: rows of the items whose losses are added up, `[num_items]`.
        num_terms: `n`.
        batch_size: items in memory at a time.
    """

    model: nn.Module
    task: Task
    data: Any
    index: Tensor
    num_terms: int
    batch_size: int

    def __post_init__(self) -> None:
        # A compiled model has no second derivative; the module inside shares its parameters.
        object.__setattr__(self, "model", getattr(self.model, "_orig_mod", self.model))

    @property
    def params(self) -> list[nn.Parameter]:
        return learning_parameters(self.model)

    def batches(self) -> Iterator[ItemBatchLoss]:
        """Yield the losses of the batches, which add up to this one."""
        for rows in self.index.split(self.batch_size):
            with isolated_rng(0):  # the same draws of a transform at each pass
                items = ArrayItems(*rows_at(self.data, rows), fixed=False)
            yield ItemBatchLoss(self.model, self.task, items, self.num_terms)

    def _sum(self, of: Callable[[ItemBatchLoss], Tensor], start: Tensor) -> Tensor:
        for batch in self.batches():
            start = start + of(batch).to(start.dtype)
        return start

    @torch.no_grad()
    def __call__(self) -> Tensor:
        """Return the loss, a scalar."""
        return self._sum(lambda batch: batch.mean(batch.predict(None)), self.params[0].new_zeros(()))

    def gradient(self) -> Tensor:
        """Return the gradient in the parameters that learn, `[num_params]`."""
        start = self.params[0].new_zeros(sum(p.numel() for p in self.params))
        return self._sum(lambda batch: gradient(batch.mean(batch.predict(None)), self.params), start)

    @torch.no_grad()
    def uninformed(self) -> float:
        """Return the loss of all-zero logits; a trained model must have a lower one."""
        logits = next(self.batches()).predict(None).require("logits")
        return math.log(logits.size(-1)) * self.index.numel() / self.num_terms


@dataclass(frozen=True)
class ItemBatchLoss:
    """The share of one batch in an `ItemTrainingLoss`, as `Curvature` reads it; the losses of all batches add up."""

    model: nn.Module
    task: Task
    items: ArrayItems
    num_terms: int

    @property
    def params(self) -> list[nn.Parameter]:
        return learning_parameters(self.model)

    def outputs(self, data: Any = None) -> None:
        """Return nothing: independent items share no pass."""

    def predict(self, outputs: None) -> Prediction:
        """Return the predictions of the batch, differentiable to any order."""
        with second_order(self.model):
            return self.task.decode(self.model, outputs, self.items)

    def mean(self, prediction: Prediction, weight: Tensor | None = None) -> Tensor:
        """Return the sum of the batch's losses over `num_terms`; `weight` is not read: all are 1."""
        return -prediction.log_prob.sum() / self.num_terms


class ItemCurvature(Products):
    """The curvature of an `ItemTrainingLoss`, known by its products: the sum of those of its batches, each read anew.

    Args:
        kind: one of `CURVATURES`, see `Curvature`.
        weight_decay: of the training; `weight_decay * v` is added.
    """

    def __init__(self, loss: ItemTrainingLoss, kind: str = "gauss_newton", weight_decay: float = 0.0) -> None:
        check_choice("curvature", kind, CURVATURES)
        self.loss, self.kind, self.weight_decay = loss, kind, weight_decay
        self.params: Sequence[Tensor] = loss.params

    def _product(self, v: Tensor) -> Tensor:
        with torch.enable_grad():
            return self.loss._sum(lambda batch: Curvature(batch, self.kind) @ v, torch.zeros_like(v))


#: A training loss whose terms are read at once, on a graph, or in batches, of independent items.
AnyTrainingLoss = TrainingLoss | ItemTrainingLoss
