"""A small model, data and request of a task, trained in a second."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

import gunlearn as gu
from gunlearn.errors import InvalidInputError
from gunlearn.requests.base import Request
from gunlearn.seed import isolated_rng
from gunlearn.tasks.items.tables import ItemTable


@dataclass(frozen=True)
class SmallProblem:
    """What the contract tests run a method on.

    Args:
        task: the name of the task.
        new: returns a model with new weights.
        data: returns the data, a new object each time.
        request: what to forget of them.
        epochs: of the training of the base model.
    """

    task: str
    new: Callable[[], nn.Module]
    data: Callable[[], Any]
    request: Request
    epochs: int = 30

    def model(self, seed: int = 0, epochs: int | None = None) -> nn.Module:
        """Return a model that is trained for so many epochs, with 0 a new one; yours to change."""
        return copy.deepcopy(_trained(self, seed, self.epochs if epochs is None else epochs))


@cache
def _trained(problem: SmallProblem, seed: int, epochs: int) -> nn.Module:
    with isolated_rng(seed):
        model = problem.new()
    return model if not epochs else gu.train(model, problem.data(), problem.task, epochs=epochs, lr=1e-2).model


class _Dropping(nn.Module):
    """Two graph convolutions with dropout between."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.inner, self.dropout = gu.GCN(6, 8, 8), nn.Dropout(0.3)
        self.last = gu.GCN(8, 8, size)

    def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        return self.last(self.dropout(self.inner(x, edge_index)), edge_index)


def _karate() -> Any:
    """Return the graph with features that are no identity: weights per node would be reset with the nodes."""
    data = gu.load("karate")
    data.x = torch.arange(34.0 * 6).view(34, 6).sin()
    return data


def _rows() -> Any:
    x, y = torch.arange(160.0).view(40, 4).sin(), torch.arange(40) % 2
    return ItemTable(x=x, y=y, test_mask=torch.arange(40) >= 28)


_PROBLEMS = [
    SmallProblem(
        "link_prediction",
        lambda: _Dropping(4),
        lambda: gu.link_split(_karate(), 0.1, 0.1),
        gu.ForgetEdges(count=5, seed=3),
    ),
    SmallProblem(
        "node_classification",
        lambda: _Dropping(4),
        lambda: gu.node_split(_karate(), 0.2, 0.3, seed=0),
        gu.ForgetNodes(count=4, seed=2),
    ),
    SmallProblem(
        "image_classification",
        lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2)),
        _rows,
        gu.ForgetItems(count=8),
    ),
]


def small_problem(task: str) -> SmallProblem:
    """Return the small problem of a task; InvalidInputError for a task that has none."""
    for problem in _PROBLEMS:
        if problem.task == task:
            return problem
    known = ", ".join(problem.task for problem in _PROBLEMS)
    raise InvalidInputError(f"Expected a task among {known} (got '{task}'); give the contract a SmallProblem of yours")
