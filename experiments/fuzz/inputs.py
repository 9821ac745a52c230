"""Random graphs, models, requests and options: most of them right, some wrong in one to three ways."""

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data, HeteroData
from torch_geometric.nn import GATv2Conv, GCNConv, GINEConv, MessagePassing
from torch_geometric.utils import to_undirected

import gunlearn as gu
from gunlearn.attribution import ESTIMATORS
from gunlearn.losses import NLL, NPO
from gunlearn.methods import METHODS
from gunlearn.nn import backbone

NODES, WIDTH, CLASSES = 30, 6, 3
#: Values that no option should take without a word.
ODD = (0, -1, 1.5, 1e9, float("nan"), float("inf"), "3", "", None, True, [], (1,), object(), torch.ones(2))
#: Values that make a run long where they are right.
FEW = {"epochs": 2, "steps": 2, "iterations": 3, "max_iterations": 5, "num_shards": 2, "shard_epochs": 2}

Draw = random.Random


#: Tasks with labels of one's own, and how many numbers each node has.
OWN = {"node_regression": 2, "node_multilabel": 3, "node_multilabel of one": 1}


def labels(draw: Draw, task: str, generator: torch.Generator) -> Tensor:
    """Classes, numbers, or yes and no for each node."""
    if task not in OWN:
        return torch.arange(NODES) % CLASSES
    y = torch.randn(NODES, OWN[task], generator=generator)
    y = y if task == "node_regression" else (y > 0).float()
    if task == "node_multilabel" and draw.random() < 0.2:
        y[0, 0] = float("nan")  # a label that nobody knows
    return y[:, 0] if OWN[task] == 1 and draw.random() < 0.5 else y


def graph(draw: Draw, task: str) -> Data:
    """A small graph with features, labels and a split for the task."""
    edges = torch.tensor([[draw.randrange(NODES), draw.randrange(NODES)] for _ in range(70)]).t()
    edges = to_undirected(edges[:, edges[0] != edges[1]])
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    x = torch.randn(NODES, WIDTH, generator=generator)
    data = Data(x=x, edge_index=edges, y=labels(draw, task, generator))
    if draw.random() < 0.2:
        data.edge_weight = torch.rand(data.num_edges)
    seed = draw.randrange(100)
    return gu.link_split(data, 0.1, 0.1, seed=seed) if task == "link_prediction" else gu.node_split(data, seed=seed)


def _replace(name: str, make: Callable[[Tensor], Any]) -> Callable[[Data], Any]:
    def change(data: Data) -> Data:
        if data.get(name) is not None:
            data[name] = make(data[name])
        return data

    return change


def _first(value: Any) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[:1] = value
        return tensor

    return change


def _without(name: str) -> Callable[[Data], Data]:
    def change(data: Data) -> Data:
        if name in data:
            del data[name]
        return data

    return change


def _set(name: str, make: Callable[[Data], Any]) -> Callable[[Data], Data]:
    def change(data: Data) -> Data:
        data[name] = make(data)
        return data

    return change


def _typed(_: Data) -> HeteroData:
    typed = HeteroData()
    typed["a"].x = torch.ones(3, 2)
    typed["a", "to", "a"].edge_index = torch.tensor([[0, 1], [1, 2]])
    return typed


#: What can be wrong or unusual in data, by name.
CHANGES: dict[str, Callable[[Data], Any]] = {
    "narrow x": _replace("x", lambda x: x[:, :-1]),
    "wide x": _replace("x", lambda x: torch.cat((x, x), 1)),
    "short x": _replace("x", lambda x: x[:-3]),
    "flat x": _replace("x", lambda x: x[:, 0]),
    "x of three dimensions": _replace("x", lambda x: x.unsqueeze(-1)),
    "double x": _replace("x", lambda x: x.double()),
    "half x": _replace("x", lambda x: x.half()),
    "integer x": _replace("x", lambda x: x.long()),
    "bool x": _replace("x", lambda x: x > 0),
    "complex x": _replace("x", lambda x: x.to(torch.complex64)),
    "sparse x": _replace("x", lambda x: x.to_sparse()),
    "CSR x": _replace("x", lambda x: x.to_sparse_csr()),
    "x as list": _replace("x", lambda x: x.tolist()),
    "x as array": _replace("x", lambda x: x.numpy()),
    "x with NaN": _replace("x", _first(float("nan"))),
    "x with infinity": _replace("x", _first(float("inf"))),
    "x that requires grad": _replace("x", lambda x: x.clone().requires_grad_()),
    "no x": _without("x"),
    "x is None": _set("x", lambda data: None),
    "no edges": _replace("edge_index", lambda e: e[:, :0]),
    "no edge_index": _without("edge_index"),
    "one edge": _replace("edge_index", lambda e: e[:, :1]),
    "directed": _replace("edge_index", lambda e: e[:, e[0] < e[1]]),
    "edges out of range": _replace("edge_index", _first(NODES + 5)),
    "negative edges": _replace("edge_index", _first(-1)),
    "float edges": _replace("edge_index", lambda e: e.float()),
    "int32 edges": _replace("edge_index", lambda e: e.int()),
    "edges on their side": _replace("edge_index", lambda e: e.t()),
    "edges as list": _replace("edge_index", lambda e: e.tolist()),
    "self-loops": _replace("edge_index", lambda e: torch.cat((e, torch.arange(5).repeat(2, 1)), 1)),
    "edges twice": _replace("edge_index", lambda e: torch.cat((e, e[:, :6]), 1)),
    "short weights": _set("edge_weight", lambda data: torch.ones(4)),
    "NaN weights": _set("edge_weight", lambda data: torch.full((data.num_edges,), float("nan"))),
    "negative weights": _set("edge_weight", lambda data: -torch.ones(data.num_edges)),
    "integer weights": _set("edge_weight", lambda data: torch.ones(data.num_edges, dtype=torch.long)),
    "edge_attr": _set("edge_attr", lambda data: torch.rand(data.num_edges, 2)),
    "long edge_attr": _set("edge_attr", lambda data: torch.rand(200, 2)),
    "more nodes": _set("num_nodes", lambda data: NODES + 4),
    "fewer nodes": _set("num_nodes", lambda data: 5),
    "no y": _without("y"),
    "float y": _replace("y", lambda y: y.float()),
    "one-hot y": _replace("y", lambda y: nn.functional.one_hot(y, CLASSES)),
    "short y": _replace("y", lambda y: y[:-4]),
    "column y": _replace("y", lambda y: y.view(-1, 1)),
    "negative y": _replace("y", _first(-1)),
    "y beyond the classes": _replace("y", _first(CLASSES + 2)),
    "y of NaN": _replace("y", lambda y: torch.full_like(y.float(), float("nan"))),
    "y with infinity": _replace("y", lambda y: _first(float("inf"))(y.float())),
    "constant y": _replace("y", torch.zeros_like),
    "y of one column more": _replace("y", lambda y: torch.cat((y.view(NODES, -1), y.view(NODES, -1)[:, :1]), 1)),
    "bool y": _replace("y", lambda y: y > 0),
    "y beyond yes and no": _replace("y", lambda y: y * 3),
    "huge y": _replace("y", lambda y: y.float() * 1e30),
    "no train_mask": _without("train_mask"),
    "short train_mask": _replace("train_mask", lambda m: m[:-2]),
    "integer train_mask": _replace("train_mask", lambda m: m.long()),
    "empty train_mask": _replace("train_mask", torch.zeros_like),
    "train_mask over test_mask": _replace("train_mask", torch.ones_like),
    "no positives": _without("train_pos_edge_index"),
    "held-out edges in the graph": _set("test_pos_edge_index", lambda data: data.edge_index[:, :3]),
    "test edges out of range": _replace("test_pos_edge_index", _first(NODES + 1)),
    "no test negatives": _without("test_neg_edge_index"),
    "a name for each node": _set("name", lambda data: [f"n{i}" for i in range(NODES)]),
    "a name too many": _set("name", lambda data: [f"n{i}" for i in range(NODES + 1)]),
    "typed": _typed,
    "a list of graphs": lambda data: [data, data],
    "None": lambda data: None,
    "a dict": lambda data: data.to_dict(),
}


class Net(nn.Module):
    """Two convolutions, with a twist."""

    def __init__(self, twist: str) -> None:
        super().__init__()
        self.twist = twist
        self.a, self.b = GCNConv(WIDTH, 8), GCNConv(8, CLASSES)
        self.table = nn.Embedding(NODES, WIDTH)

    def forward(self, x: Tensor, edge_index: Tensor, *more: Any) -> Any:
        h = self.table.weight if x is None else x + self.table.weight if self.twist == "embedding" else x
        z = self.b(self.a(h, edge_index).relu(), edge_index)
        if self.twist == "softmax":
            return z.softmax(-1)
        if self.twist == "dropout":
            return nn.functional.dropout(z, 0.5)
        if self.twist == "tuple":
            return z, h
        if self.twist == "NaN":
            return z * float("nan")
        if self.twist == "one column":
            return z[:, :1]
        return z[:-1] if self.twist == "short" else z


class OfData(Net):
    """Called with the data."""

    def forward(self, data: Data) -> Tensor:  # type: ignore[override]
        return super().forward(data.x, data.edge_index)


class Attributed(nn.Module):
    """Reads edge attributes of two columns."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.inside = kind, nn.Linear(WIDTH, CLASSES)
        self.a = GATv2Conv(WIDTH, 8, edge_dim=2) if kind == "gatv2" else GINEConv(self.inside, edge_dim=2)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        return self.a(x, edge_index, edge_attr)


class Plain(nn.Linear):
    """Reads no edges."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)


TWISTS = ("", "embedding", "softmax", "dropout", "tuple", "NaN", "one column", "short")
ZOO = ("gcn", "sage", "gat", "gin", "sgc", "appnp")


def model(draw: Draw, wild: bool, width: int = CLASSES) -> tuple[str, Any]:
    """A model of the zoo with `width` outputs, or a wild one."""
    if not wild:
        name = draw.choice(ZOO)
        return name, backbone(name, WIDTH, 8, width)
    name = draw.choice(
        ("twist", "twist", "twist", "data", "gatv2", "gine", "plain", "double", "frozen", "train", "none")
    )
    if name == "twist":
        twist = draw.choice(TWISTS)
        return f"twist {twist}", Net(twist)
    made: dict[str, Callable[[], Any]] = {
        "data": lambda: OfData(""),
        "gatv2": lambda: Attributed("gatv2"),
        "gine": lambda: Attributed("gine"),
        "plain": lambda: Plain(WIDTH, CLASSES),
        "double": lambda: backbone("gcn", WIDTH, 8, CLASSES).double(),
        "frozen": lambda: backbone("gcn", WIDTH, 8, CLASSES).requires_grad_(False),
        "train": lambda: backbone("gcn", WIDTH, 8, CLASSES, dropout=0.5).train(),
        "none": lambda: draw.choice((None, "gcn", nn.Linear, torch.ones(3))),
    }
    return name, made[name]()


def _layer(model: Any) -> Any:
    return next(m for m in model.modules() if isinstance(m, MessagePassing))


def _failing(model: Any, data: Data) -> Tensor:
    raise KeyError("of the caller's")


#: Ways to call a model: right ones first.
CALLS: dict[str, Any] = {
    "usual": lambda model, data: model(data.x, data.edge_index),
    "scaled": lambda model, data: 2 * model(data.x, data.edge_index),
    "of layers": lambda model, data: _layer(model)(data.x, data.edge_index),
    "failing": _failing,
    "None": lambda model, data: None,
    "tuple": lambda model, data: (model(data.x, data.edge_index), data.x),
    "without gradient": lambda model, data: model(data.x, data.edge_index).detach(),
    "NaN": lambda model, data: model(data.x, data.edge_index) * float("nan"),
    "softmax": lambda model, data: model(data.x, data.edge_index).softmax(-1),
    "short": lambda model, data: model(data.x, data.edge_index)[:-1],
    "flat": lambda model, data: model(data.x, data.edge_index).mean(-1),
    "random": lambda model, data: model(data.x, data.edge_index) + torch.rand(1),
    "integers": lambda model, data: model(data.x, data.edge_index).long(),
    "no model": lambda model, data: data.x[:, :CLASSES],
    "one argument": lambda model: model,
    "of a key that is not there": lambda model, data: model(data.time, data.edge_index),
    "no function": 3,
}
DECODES: dict[str, Any] = {
    "inner": lambda model, z, pairs: (z[pairs[0]] * z[pairs[1]]).sum(-1),
    "distance": lambda model, z, pairs: -(z[pairs[0]] - z[pairs[1]]).square().sum(-1),
    "sigmoid": lambda model, z, pairs: (z[pairs[0]] * z[pairs[1]]).sum(-1).sigmoid(),
    "two columns": lambda model, z, pairs: z[pairs[0]][:, :2],
    "a number": lambda model, z, pairs: z.sum(),
    "failing": lambda model, z, pairs: z[99_999],
    "None": lambda model, z, pairs: None,
    "NaN": lambda model, z, pairs: z[pairs[0]].sum(-1) / 0,
    "two arguments": lambda model, z: z,
    "no function": "inner",
}


def calling(draw: Draw, wild: bool, task: str) -> tuple[str, dict[str, Any]]:
    """Ways to call a model and to score pairs: none, right or wild ones."""
    given: dict[str, Any] = {}
    names: list[str] = []
    if wild or draw.random() < 0.2:
        name = draw.choice(list(CALLS) if wild else list(CALLS)[:2])
        given["call"], names = CALLS[name], [name]
    if draw.random() < (0.3 if task == "link_prediction" else 0.05 * wild):
        name = draw.choice(list(DECODES) if wild else list(DECODES)[:2])
        given["decode"] = DECODES[name]
        names.append(name)
    return ", ".join(names), given


def request(draw: Draw, wild: bool, data: Any, kinds: tuple[str, ...]) -> tuple[str, Callable[[], Any]]:
    """What makes a request of one of the kinds, or a wild one."""
    edges = data.get("edge_index") if isinstance(data, Data) else None
    edges = edges if isinstance(edges, Tensor) else torch.ones(2, 3)
    three = edges[:, :3] if edges.dim() == 2 else edges
    node = draw.choice((0, 3, NODES - 1, NODES, -1, 1.5, "7"))
    makes: dict[str, Callable[[], Any]] = {
        "edges by count": lambda: gu.ForgetEdges(count=draw.choice((1, 3, 3, 10, 0, -1, 10_000, 2.5))),
        "edges by ratio": lambda: gu.ForgetEdges(ratio=draw.choice((0.1, 0.3, 0.0, 1.0, 2.0, -0.1, float("nan")))),
        "edges by name": lambda: gu.ForgetEdges(three),
        "edges as lists": lambda: gu.ForgetEdges(three.tolist()),
        "edges as pairs": lambda: gu.ForgetEdges(three.t()),
        "float edges": lambda: gu.ForgetEdges(three.float()),
        "missing edge": lambda: gu.ForgetEdges(torch.tensor([[0], [node if isinstance(node, int) else 0]])),
        "edge ids": lambda: gu.ForgetEdges(edge_ids=[0, 1, draw.choice((2, 2, 10_000, -1))]),
        "edges in a region": lambda: gu.ForgetEdges(count=2, region=draw.choice(("in", "out", "any", "nowhere"))),
        "edges by score": lambda: gu.ForgetEdges(count=2, by=draw.choice(("influence", "degree", "random", "luck"))),
        "no edges": lambda: gu.ForgetEdges(torch.empty(2, 0, dtype=torch.long)),
        "nodes": lambda: gu.ForgetNodes([1, 4]),
        "a node": lambda: gu.ForgetNodes([node]),
        "nodes twice": lambda: gu.ForgetNodes([1, 1]),
        "nodes by count": lambda: gu.ForgetNodes(count=draw.choice((1, 2, 0, NODES, 99))),
        "nodes by mask": lambda: gu.ForgetNodes(torch.arange(draw.choice((NODES, 7))) < 2),
        "features": lambda: gu.ForgetFeatures([2, 5]),
        "columns": lambda: gu.ForgetFeatures([1], columns=draw.choice(([0], [0, WIDTH], [-1], []))),
        "a sum": lambda: gu.ForgetNodes([2]) + gu.ForgetEdges(three),
        "a subgraph": lambda: gu.ForgetSubgraph([5], num_hops=draw.choice((0, 1, -1))),
        "items": lambda: gu.ForgetItems([0]),
        "graphs": lambda: gu.ForgetGraphs([0]),
        "not a request": lambda: draw.choice((None, [0, 1], three, "edges")),
    }
    right = {
        "edges": ("edges of some count", "edges of some share", "edges by name", "edge ids"),
        "nodes": ("nodes", "nodes of some count"),
        "features": ("features", "columns"),
    }
    makes["edges of some count"] = lambda: gu.ForgetEdges(count=3)
    makes["edges of some share"] = lambda: gu.ForgetEdges(ratio=0.1)
    makes["nodes of some count"] = lambda: gu.ForgetNodes(count=2)
    name = draw.choice(list(makes) if wild else right[draw.choice(kinds or tuple(right))])
    return name, makes[name]


def options_of(draw: Draw, wild: bool, known: dict[str, Any]) -> dict[str, Any]:
    """Few epochs; wild ones have an odd value, or an option that does not exist."""
    given = {key: value for key, value in FEW.items() if key in known and not (key == "steps" and "epochs" in known)}
    if wild and known and draw.random() < 0.8:
        given[draw.choice(sorted(known))] = draw.choice(ODD)
    elif wild:
        given["epoch"] = 3
    return given


def method(draw: Draw, wild: bool, task: str) -> tuple[Any, dict[str, Any], tuple[str, ...]]:
    """A method of the task with options, and the kinds of requests that it takes."""
    chance = draw.random()
    if wild and chance < 0.2:
        return draw.choice((None, "nope", "npo:nope", 3, NLL, METHODS)), {}, ()
    if chance < 0.05:
        return NPO(beta=draw.choice((1.0, 0.1))) + NLL(on="retain"), {"epochs": 2}, ()
    fitting = [name for name, cls in METHODS.items() if not cls.tasks or wild or task in cls.tasks]
    name = draw.choice([name for name in fitting if "causal_lm" not in METHODS[name].tasks])
    cls = METHODS[name]
    kinds = tuple(kind for kind in cls.requests if kind != "graphs")
    return name, options_of(draw, wild, cls.options()), ("edges",) if task == "link_prediction" else kinds


def estimator(draw: Draw, wild: bool) -> tuple[Any, dict[str, Any]]:
    """An estimator with options."""
    if wild and draw.random() < 0.2:
        return draw.choice((None, "nope", 3)), {}
    name = draw.choice([key for key in ESTIMATORS if key != "retraining"])
    return name, options_of(draw, wild, ESTIMATORS[name].options())


def items(draw: Draw, wild: bool, of: str, data: Any) -> Any:
    """Items whose influence is asked for: all or some, or wild ones."""
    if wild:
        return draw.choice(
            (
                [[0, 1], [2, 3]],
                torch.tensor([[0], [1]]),
                [NODES],
                [-1],
                [],
                [0.5],
                "all",
                torch.ones(3),
                torch.empty(0, dtype=torch.long),
                torch.empty(2, 0, dtype=torch.long),
                None,
                {0},
            )
        )
    edges = data.get("edge_index") if isinstance(data, Data) else None
    some: Any = edges[:, :4] if of == "edges" and isinstance(edges, Tensor) and edges.dim() == 2 else [0, 1, 2]
    return draw.choice((None, some))
