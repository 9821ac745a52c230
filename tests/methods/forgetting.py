"""Small real problems of each task, and figures of how well they are forgotten, by hand."""

import copy
import functools
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy, softplus

import gunlearn as gu
from gunlearn.losses import Objective
from gunlearn.methods import Method, run_method
from tests.methods.cases import seeded
from tests.methods.test_items_digits import TASK as IMAGES
from tests.methods.test_items_digits import figures
from tests.methods.test_items_digits import problem as digits

LINKS, NODES = gu.LinkPrediction(), gu.NodeClassification()


def flipped(method: Method, part: str = "forget") -> Method:
    """The method with the signs of its losses on a part turned around."""

    def turned(objective: Any) -> Objective:
        return Objective(tuple((-w if loss.on == part else w, loss) for w, loss in objective.terms))

    class Flipped(type(method)):
        def objective(self) -> Objective:
            return turned(method.objective())

        def objective_at(self, step: int) -> Objective:
            return turned(method.objective_at(step))

    return Flipped(**vars(method))


@torch.no_grad()
def beyond(start: nn.Module, end: nn.Module) -> nn.Module:
    """The model that the step from `start` to `end` turned around leads to."""
    out = copy.deepcopy(start)
    for p, q in zip(out.parameters(), end.parameters(), strict=True):
        p.copy_(2 * p - q)
    return out


def threes() -> Any:
    """All training images of threes: a whole class."""
    _, data = digits()
    return gu.ForgetItems(((data.y == 3) & data.train_mask).nonzero().view(-1)).resolve(data)


def class_figures(model: nn.Module) -> dict[str, float]:
    """Errors on the forgotten class and on the rest, and the forgotten class's mean loss."""
    _, data = digits()
    partition = threes()
    (forget, likelihood), (retain, _) = (
        figures(model, data, mask) for mask in (partition.forget_mask, partition.retain_mask)
    )
    return {"forget": 1 - forget, "retain": 1 - retain, "loss": -likelihood}


def on_digits(method: Method, seed: int = 1) -> gu.Result:
    """The class of threes, forgotten."""
    return run_method(method, digits()[0], threes(), IMAGES, seed=seed)


def club() -> Any:
    """The karate club with random features: of one-hot ones a model keeps weights of each node, which are reset."""
    data = gu.load("karate")
    data.x = torch.randn(34, 20, generator=torch.Generator().manual_seed(0))
    return data


@functools.cache
def classifier() -> tuple[nn.Module, Any]:
    """A GCN trained to classify the nodes of the karate club, and the club."""
    data = gu.node_split(club(), 0.2, 0.2)
    model = seeded(gu.GCN, data.num_features, 8, 4)
    return gu.train(model, data, NODES, epochs=60, lr=1e-2).model, data


@functools.cache
def cora(root: Path) -> tuple[nn.Module, Any]:
    """A GCN trained to classify the nodes of Cora, and Cora."""
    data = gu.node_split(gu.load("Cora", root))
    model = seeded(gu.GCN, data.num_features, 16, 7)
    return gu.train(model, data, NODES, epochs=60, lr=1e-2, eval_every=60).model, data


@functools.cache
def karate(task: str) -> tuple[nn.Module, Any]:
    """A GCN trained on the karate club, and eight edges or four nodes of it to forget."""
    if task == "edges":
        data = gu.link_split(gu.load("karate"), 0.1, 0.1, seed=0)
        request, kind = gu.ForgetEdges(count=8, seed=0), LINKS
    else:
        data = gu.node_split(gu.load("karate"), 0.2, 0.2, seed=0)
        request, kind = gu.ForgetNodes(count=4, seed=1), NODES
    model = seeded(gu.GCN, data.num_features, 16, 8)
    model = gu.train(model, data, kind, epochs=150, lr=1e-2, eval_every=50).model
    return model, request.resolve(data)


def on_karate(method: Method, task: str, seed: int = 1) -> gu.Result:
    """Edges or nodes of the karate club, forgotten."""
    model, partition = karate(task)
    return run_method(method, model, partition, LINKS if task == "edges" else NODES, seed=seed)


@torch.no_grad()
def karate_losses(model: nn.Module, task: str) -> tuple[float, float]:
    """Mean losses of what is forgotten and of what is retained: edges on the retained graph, nodes with their labels on
    the graph where they still are."""
    _, partition = karate(task)
    data = partition.retain_data if task == "edges" else partition.data
    z = model.eval()(data.x, data.edge_index).double()
    if task == "edges":
        groups = partition.forget_edge_index, partition.retain_edge_index
        return tuple(float(softplus(-(z[u] * z[v]).sum(1)).mean()) for u, v in groups)
    gone, kept = partition.forget_nodes, data.train_mask.clone()
    kept[gone] = False
    return tuple(float(cross_entropy(z[rows], data.y[rows])) for rows in (gone, kept))


@torch.no_grad()
def cora_figures(model: nn.Module, partition: Any) -> tuple[float, float, float]:
    """Mean losses of the forgotten nodes, where they still are, and of those that stay; accuracy on the test nodes."""
    data, retain, gone = partition.data, partition.retain_data, partition.forget_nodes
    new = model(retain.x, retain.edge_index)
    lost = cross_entropy(model(data.x, data.edge_index)[gone], data.y[gone])
    kept = cross_entropy(new[retain.train_mask], data.y[retain.train_mask])
    right = (new.argmax(1) == data.y)[retain.test_mask]
    return float(lost), float(kept), float(right.float().mean())


def changes(result: gu.Result, task: str) -> tuple[float, float]:
    """By how much the two losses rose."""
    before, after = (karate_losses(model, task) for model in (result.original, result.model))
    return after[0] - before[0], after[1] - before[1]
