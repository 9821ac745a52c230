"""The training loss with and without the items of a request."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gunlearn.curvature.item_loss import AnyTrainingLoss, ItemTrainingLoss
from gunlearn.curvature.training_loss import TrainingLoss, flat, gradient, training_items
from gunlearn.errors import InvalidInputError
from gunlearn.methods.base import Problem

ITEMS_READ = 256  # independent items in memory at a time, where nothing says how many


@dataclass(frozen=True)
class Removal:
    r"""The training loss with the request's items and without, both over the same `n` terms.

    Removed terms get the weight 0, and `n` stays. Link prediction removes the forgotten edges' positive terms, and all
    negatives weigh less by the same share: a model trained on the rest would have drawn fewer. Node classification
    removes the terms of forgotten nodes. If features are forgotten, all terms stay and read zeros. Independent items
    take their terms with them.

    Attributes:
        whole: the loss of all terms on the original graph.
        rest: the loss of the retained terms on the retained graph.
        push: :math:`v / n = \nabla L(\theta; G) - \nabla L_r(\theta; G_r)`, `[num_params]`.
    """

    whole: AnyTrainingLoss
    rest: AnyTrainingLoss
    push: Tensor

    @classmethod
    def of_items(cls, problem: Problem, batch_size: int | None) -> Removal:
        """Return the removal of independent items, which are read `batch_size` at a time; `None` as a loader does."""
        model, partition = problem.model.eval(), problem.partition
        size = batch_size or partition.data.get("batch_size") or ITEMS_READ
        everything = partition.forget_mask | partition.retain_mask
        n = int(everything.sum())
        whole, rest, gone = (
            ItemTrainingLoss(model, problem.task, partition.data, mask.nonzero().view(-1), n, size)
            for mask in (everything, partition.retain_mask, partition.forget_mask)
        )
        return cls(whole, rest, _finite(gone.gradient()))

    @classmethod
    def of(cls, problem: Problem, structural: bool = True) -> Removal:
        """Return the removal of a problem; without `structural`, `push` ignores that the graph changes."""
        model, task, partition = problem.model.eval(), problem.task, problem.partition
        items = training_items(task, partition.data, problem.seed)
        ones = torch.ones(items.num_items, dtype=next(model.parameters()).dtype, device=items.label.device)
        whole = TrainingLoss(model, task, partition.data, items, ones, kernels=True)
        rest = replace(whole, data=partition.retain_data, weight=retained_weight(items, partition).to(ones))
        pushing = rest if structural else replace(rest, data=partition.data)
        push = gradient(whole(), whole.params) - gradient(pushing(), whole.params)
        return cls(whole, rest, _finite(push))

    def weights(self) -> Tensor:
        """Return a copy of the trained parameters as one vector `[num_params]`."""
        return flat([p.detach() for p in self.whole.params])

    @torch.no_grad()
    def put(self, theta: Tensor) -> None:
        """Write `theta` `[num_params]` into the model's parameters."""
        sizes = [p.numel() for p in self.whole.params]
        for parameter, part in zip(self.whole.params, theta.split(sizes), strict=True):
            parameter.copy_(part.view_as(parameter))

    @cached_property
    def loss_before(self) -> tuple[float, float]:
        """Return `L_r` of the model and of zero outputs; read it before the model moves."""
        return self.retained_loss(self.weights()), self.rest.uninformed()

    @torch.no_grad()
    def retained_loss(self, theta: Tensor) -> float:
        """Return `L_r` at `theta`; the model keeps its own parameters."""
        own = self.weights()
        self.put(theta)
        try:
            return float(self.rest())
        finally:
            self.put(own)


def _finite(push: Tensor) -> Tensor:
    if not torch.isfinite(push).all():
        raise InvalidInputError("Expected a finite gradient of the training loss (got NaN or infinity)")
    return push


def retained_weight(items: Any, partition: Any) -> Tensor:
    """Return the weight of each training term (node pair or node) after the request, `[n]`; see `Removal`."""
    if not hasattr(items, "edge_label_index"):
        return (~torch.isin(items.index, partition.forget_nodes)).double()
    n = int(partition.data.num_nodes)
    (u, v), (s, t) = items.edge_label_index, partition.forget_edge_index
    positive = items.label > 0
    gone = positive & torch.isin(u * n + v, s * n + t)
    share = float(gone.sum() / positive.sum())
    return torch.where(positive, (~gone).double(), 1.0 - share)
