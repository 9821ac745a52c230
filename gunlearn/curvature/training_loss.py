"""The training loss of a model as a function of its parameters, the graph and the weight of each term."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch_geometric import EdgeIndex
from torch_geometric.data import Data

from gunlearn.errors import InvalidInputError
from gunlearn.losses import Prediction
from gunlearn.losses.functional import mean_tokens
from gunlearn.nn.attach.message_layers import suspended_caches
from gunlearn.nn.kernels.scatter import without_torch_scatter
from gunlearn.nn.kernels.switch import plain_path
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Task


@contextmanager
def second_order(model: nn.Module, kernels: bool = False) -> Iterator[None]:
    """Let passes of `model` inside the block be differentiated twice; with `kernels` CSR kernels still run.

    Layers gather and scatter with torch's own operators: torch-scatter's segment kernels would drop second-order terms
    without an error. Caches of `cached=True` layers are off, since they hold another graph's normalisation. Attention
    runs by plain products: fused kernels have no second derivative.
    """
    path, attention = nullcontext() if kernels else plain_path(), sdpa_kernel(SDPBackend.MATH)
    with path, without_torch_scatter(), suspended_caches(model), attention:
        yield


@dataclass(frozen=True)
class TrainingLoss:
    """`L(theta; G, w) = -(1/n) sum_i w_i log p_i(theta; G)` over the `n` training items, in evaluation mode.

    Items that training draws at random (negatives of link prediction) are drawn once, under the problem's seed. A
    removed item gets weight 0 and still counts in `n`.

    Attributes:
        data: the whole graph.
        items: the training items.
        weight: of each item's term, `[n]`.
        kernels: run passes on the CSR kernels: several times as fast, for first derivatives and `SplitGaussNewton`.
    """

    model: nn.Module
    task: Task
    data: Data
    items: Any
    weight: Tensor
    kernels: bool = False

    @classmethod
    def of(cls, problem: Any) -> TrainingLoss:
        """Return the training loss of a problem's model; refuse an infinite or NaN loss, and a frozen model."""
        learning_parameters(problem.model)
        items = training_items(problem.task, problem.data, problem.seed)
        weight = getattr(items, "weight", None)
        weight = problem.outputs.new_ones(items.num_items) if weight is None else weight.to(problem.outputs)
        loss = cls(problem.model, problem.task, problem.data, items, weight)
        with torch.no_grad():
            value = loss()
        if not torch.isfinite(value):
            raise InvalidInputError(f"Expected a finite training loss (got {value.item()})")
        return loss

    def __post_init__(self) -> None:
        # A compiled model has no second derivative; the module inside shares its parameters.
        object.__setattr__(self, "model", getattr(self.model, "_orig_mod", self.model))

    @property
    def params(self) -> list[nn.Parameter]:
        return learning_parameters(self.model)

    @property
    def num_terms(self) -> int:
        """Return `n`."""
        return self.weight.numel()

    def outputs(self, data: Data | None = None) -> Tensor:
        """Return outputs `[num_nodes, dim]` on a graph (default: the whole), differentiable to any order."""
        data = self.data if data is None else data
        if isinstance(data.edge_index, EdgeIndex):  # a sorted one would use segment kernels
            data = copy.copy(data)
            data.edge_index = data.edge_index.as_tensor()
        with second_order(self.model, self.kernels):
            return self.task.encode(self.model, data)

    def predict(self, outputs: Tensor) -> Prediction:
        """Return predictions of the training items."""
        with second_order(self.model, self.kernels):
            return self.task.decode(self.model, outputs, self.items)

    def mean(self, prediction: Prediction, weight: Tensor | None = None) -> Tensor:
        weight = self.weight if weight is None else weight
        return -(weight * mean_tokens(prediction.log_prob, prediction.mask)).sum() / weight.numel()

    def __call__(self, data: Data | None = None, weight: Tensor | None = None) -> Tensor:
        """Return the loss on a graph with given weights, a scalar."""
        return self.mean(self.predict(self.outputs(data)), weight)

    def uninformed(self) -> float:
        """Return the loss of all-zero outputs; a trained model must have a lower one."""
        with torch.no_grad():
            return float(self.mean(self.predict(torch.zeros_like(self.outputs()))))


def learning_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that are trained; raise `InvalidInputError` if all are frozen."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise InvalidInputError("Expected a model with trainable parameters (got all of them frozen)")
    return parameters


def training_items(task: Task, data: Data, seed: int) -> Any:
    """Return the training items; what training draws at random is drawn once, under the seed."""
    with isolated_rng(seed):
        return task.training_parts(data).sample(["retain"])["retain"]


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate all entries into one vector, `[num_params]`."""
    return torch.cat([t.reshape(-1) for t in tensors])


def gradient(value: Tensor, params: Sequence[Tensor], create_graph: bool = False, retain_graph: bool = False) -> Tensor:
    """Return the gradient of a scalar as one vector `[num_params]`; zero where it does not depend on a parameter."""
    if not value.requires_grad:
        return torch.zeros_like(flat(params))
    grads = torch.autograd.grad(
        value, params, create_graph=create_graph, retain_graph=retain_graph or create_graph, materialize_grads=True
    )
    return flat(grads)
