"""One case per estimator, kind of item and kind of target; the graphs and models that the contract tests run them on.

Cases come from `ESTIMATORS`: a new estimator is tested as soon as it is registered. What it needs to be quick on a
small graph, or what it cannot promise, is said here.
"""

import copy
import functools
import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import GATConv, GCNConv, GINConv, SAGEConv

import gunlearn as gu
from gunlearn.attribution import ESTIMATORS
from gunlearn.errors import UnsupportedMethodError
from tests.methods.cases import HIDDEN, OUT, Stack

OPTIONS: dict[str, dict[str, Any]] = {
    name: {"tolerance": 1e-6, "damping": damping} for name, damping in (("if", 1.0), ("edge_edit", 1.0), ("gif", 10.0))
}
"""Options that make an estimator quick, or exact enough for the tests' tolerance."""

TARGETS = {"distance": "probabilities", "value": "loss"}


@dataclass(frozen=True)
class EstimatorCase:
    """The name of an estimator, with the kind of the items and the name of the target that it is asked about."""

    estimator: str
    of: str
    target: str

    def __str__(self) -> str:
        return f"{self.estimator}-{self.of}-{self.target}"


CASES = [
    EstimatorCase(name, of, TARGETS[kind])
    for name, cls in ESTIMATORS.items()
    for of, kind in itertools.product(cls.of, cls.targets)
]


def _perceptron(size: int, out: int) -> nn.Module:
    return nn.Sequential(nn.Linear(size, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, out))


MODELS = {
    "gcn": lambda size: Stack(GCNConv(size, HIDDEN), GCNConv(HIDDEN, OUT)),
    "sage": lambda size: Stack(SAGEConv(size, HIDDEN), SAGEConv(HIDDEN, OUT)),
    "gat": lambda size: Stack(GATConv(size, HIDDEN // 2, heads=2, dropout=0.3), GATConv(HIDDEN, OUT)),
    "gin": lambda size: Stack(GINConv(_perceptron(size, HIDDEN)), GINConv(_perceptron(HIDDEN, OUT))),
}


def double(data: Data) -> Data:
    """Features in double precision, so that the order of sums is below the tests' tolerance."""
    data.x = data.x.double()
    return data


@functools.cache
def _karate() -> Data:
    return double(gu.link_split(gu.load("karate"), 0.1, 0.1, seed=0))


def karate() -> Data:
    """Zachary's club with held-out edges; the features are the identity."""
    return copy.copy(_karate())


@functools.cache
def _trained(name: str) -> nn.Module:
    data = copy.copy(_karate())
    data.x = data.x.float()
    return gu.train(fresh(name, data), data, epochs=60, lr=2e-2, eval_every=30).model.double().eval()


def trained(name: str) -> nn.Module:
    """A model trained on `karate()`; a copy, yours to change."""
    return copy.deepcopy(_trained(name))


def fresh(name: str, data: Data, seed: int = 0) -> nn.Module:
    """A new model for a graph, in evaluation mode, in the precision of its features."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MODELS[name](data.num_features).to(data.x.dtype).eval()


def some_items(data: Data, of: str) -> Tensor:
    """A few items, out of order: of edges both directions of one, and others."""
    if of == "edges":
        chosen = data.edge_index[:, [7, 0, 3, 11, 5, 2]]
        return torch.cat([chosen, chosen[:, :1].flip(0)], dim=1) if data.is_undirected() else chosen
    return torch.tensor([4, 0, 3, 1])


def scores(case: EstimatorCase, model: nn.Module, data: Data, **more: Any) -> Tensor:
    """`gunlearn.attribution` of the case."""
    given = {
        "of": case.of,
        "estimator": case.estimator,
        "target": case.target,
        "items": some_items(data, case.of),
        **OPTIONS.get(case.estimator, {}),
        **more,
    }
    return gu.influence(model, data, **given)


@functools.cache
def usual(case: EstimatorCase, name: str) -> Tensor | None:
    """Scores of some items on `karate()` by a trained model; `None` where the estimator refuses such a model."""
    try:
        return scores(case, trained(name), karate())
    except UnsupportedMethodError:
        return None
