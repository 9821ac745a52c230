"""Twenty kinds of models that people bring, each with its data, and what every method must make of them.

`docs/fill_models.py` writes the table of all cells; `tests/test_models.py` runs them.
"""

import copy
import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import networkx as nx
import torch
import torch_geometric.nn as pyg
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch_geometric.data import Data, HeteroData
from torch_geometric.transforms import ToUndirected
from torch_geometric.utils import degree, to_torch_csr_tensor, to_undirected

import gunlearn as gu
from gunlearn.errors import GunlearnError
from gunlearn.seed import isolated_rng

LINKS, NODES = "link_prediction", "node_classification"
METHODS = ("utu", "finetune", "gif", "scrub", "gnndelete", "auto")
CELLS = (*METHODS, "evaluate", "influence")
FORGET = ("edges", "nodes")


@dataclass(frozen=True)
class Kind:
    """A kind of model.

    Args:
        name: in the table.
        model: a new model for the data.
        data: what it learns.
        task: name of its task.
        call: how it is called, where that is not `model(x, edge_index)`; `decode` likewise.
        epochs: of training; 0 where `model` trains.
    """

    name: str
    model: Callable[[Any], nn.Module]
    data: Callable[[], Any]
    task: str = NODES
    call: Callable[..., Any] | None = None
    decode: Callable[..., Any] | None = None
    epochs: int = 60

    def __str__(self) -> str:
        return self.name

    @property
    def options(self) -> dict[str, Any]:
        return {"task": self.task, "call": self.call, "decode": self.decode}


def blocks(n: int = 45, seed: int = 0) -> Data:
    """Three communities, which are the classes too."""
    p = [[0.4, 0.04, 0.04], [0.04, 0.4, 0.04], [0.04, 0.04, 0.4]]
    graph = nx.stochastic_block_model([n // 3] * 3, p, seed=seed)
    edges = to_undirected(torch.tensor(list(graph.edges)).t(), num_nodes=n)
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) * 3 // n
    return Data(x=torch.randn(n, 8, generator=generator) + 2 * torch.eye(8)[y], edge_index=edges, y=y)


def classes(**attributes: Callable[[Data], Tensor]) -> Data:
    data = blocks()
    for name, make in attributes.items():
        data[name] = make(data)
    return gu.node_split(data, 0.1, 0.3, seed=0)


def links() -> Data:
    return gu.link_split(blocks(), 0.1, 0.1, seed=0)


def per_edge(width: int | None = None) -> Callable[[Data], Tensor]:
    """The same value both ways of an edge."""

    def make(data: Data) -> Tensor:
        row, col = data.edge_index.sort(dim=0).values
        value = ((row * 7 + col * 13) % 11).float() / 11
        return value if width is None else torch.stack([(value * (k + 1)).sin() for k in range(width)], dim=1)

    return make


def relations(data: Data) -> Tensor:
    row, col = data.edge_index.sort(dim=0).values
    return (row + col) % 2


def numbers() -> Data:
    data = blocks()
    data.y = data.x[:, :2].sum(1)
    return gu.node_split(data, 0.1, 0.3, seed=0)


def several_labels() -> Data:
    data = blocks()
    data.y = torch.stack([data.y == 0, data.y != 1, data.x[:, 5] > 0], dim=1).long()
    return gu.node_split(data, 0.1, 0.3, seed=0)


def one_label() -> Data:
    data = blocks()
    data.y = (data.y == 0).float()
    return gu.node_split(data, 0.1, 0.3, seed=0)


class Stack(nn.Module):
    """Two layers with ReLU between them, called with `x`, `edge_index` and whatever else each layer takes."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor, edge_index: Tensor, *more: Tensor) -> Tensor:
        return self.second(self.first(x, edge_index, *more).relu(), edge_index, *more)


class WithAttributes(Stack):
    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        h = self.first(x, edge_index, edge_attr=edge_attr).relu()
        return self.second(h, edge_index, edge_attr=edge_attr)


class WithTypes(Stack):
    def forward(self, x: Tensor, edge_index: Tensor, edge_type: Tensor) -> Tensor:
        return super().forward(x, edge_index, edge_type)


class OfData(Stack):
    def forward(self, data: Data) -> Tensor:
        return super().forward(data.x, data.edge_index)


class Matrix(nn.Module):
    """Graph convolution by a sparse matrix, without PyG's layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor, adj_t: Tensor) -> Tensor:
        return self.b(adj_t @ self.a(adj_t @ x).relu())


def by_matrix(model: nn.Module, data: Data) -> Tensor:
    n = int(data.num_nodes)
    value = 1 / degree(data.edge_index[1], n).clamp(min=1)[data.edge_index[1]]
    return model(data.x, to_torch_csr_tensor(data.edge_index.flip(0), value, size=(n, n)))


class Pairs(nn.Module):
    """Scores pairs in `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = pyg.SAGEConv(8, 16), nn.Linear(16, 1)

    def embed(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.conv(x, edge_index).relu()

    def score(self, z: Tensor, pairs: Tensor) -> Tensor:
        return self.head(z[pairs[0]] * z[pairs[1]]).view(-1)

    def forward(self, x: Tensor, edge_index: Tensor, edge_label_index: Tensor) -> Tensor:
        return self.score(self.embed(x, edge_index), edge_label_index)


class Timed(nn.Module):
    """Messages that know when they were sent."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = pyg.GATConv(8, 16, edge_dim=1), pyg.SAGEConv(16, 3)

    def forward(self, x: Tensor, edge_index: Tensor, edge_time: Tensor) -> Tensor:
        return self.out(self.conv(x, edge_index, edge_time.view(-1, 1)).relu(), edge_index)


class Encoder(nn.Module):
    """What PyG's autoencoders read; a variational one has two heads."""

    def __init__(self, variational: bool) -> None:
        super().__init__()
        self.conv, self.mu = pyg.GCNConv(8, 16), pyg.GCNConv(16, 8)
        self.logstd = pyg.GCNConv(16, 8) if variational else None

    def forward(self, x: Tensor, edge_index: Tensor) -> Any:
        h = self.conv(x, edge_index).relu()
        return self.mu(h, edge_index) if self.logstd is None else (self.mu(h, edge_index), self.logstd(h, edge_index))


def straight_from_training(data: Data) -> nn.Module:
    """A VGAE in training mode, with the tensors that its last pass left behind."""
    model = pyg.VGAE(Encoder(True))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        z = model.encode(data.x, data.edge_index)
        (model.recon_loss(z, data.edge_index) + model.kl_loss() / data.num_nodes).backward()
        optimizer.step()
    return model.train()


def transformer(data: Data) -> nn.Module:
    class GPS(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gps, self.out = pyg.GPSConv(8, pyg.GCNConv(8, 8), heads=2), nn.Linear(8, 3)

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return self.out(self.gps(x, edge_index))

    return GPS()


def mixed(data: Data) -> nn.Module:
    in_degree = torch.bincount(degree(data.edge_index[1], int(data.num_nodes)).long())
    options = {"aggregators": ["mean", "max", "std"], "scalers": ["identity", "amplification"], "deg": in_degree}
    return WithAttributes(pyg.PNAConv(8, 8, edge_dim=2, **options), pyg.PNAConv(8, 3, edge_dim=2, **options))


class LightningStyle(nn.Module):
    """Written as a Lightning module is: `forward`, steps and optimisers beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = pyg.GraphSAGE(8, 16, 2, 3)
        self.hparams = {"lr": 1e-2}

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.net(x, edge_index)

    def training_step(self, batch: Data, index: int) -> Tensor:
        out = self(batch.x, batch.edge_index)[batch.train_mask]
        return nn.functional.cross_entropy(out, batch.y[batch.train_mask])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])


def lightning(data: Data) -> nn.Module:
    """The class above on Lightning's base where that is installed."""
    try:
        from lightning import LightningModule
    except ImportError:
        return LightningStyle()
    body = {k: v for k, v in vars(LightningStyle).items() if k in ("forward", "training_step", "configure_optimizers")}
    model = type("Module", (LightningModule,), body)()
    model.net = pyg.GraphSAGE(8, 16, 2, 3)
    return model


@functools.cache
def typed_graph() -> HeteroData:
    plain, data = blocks(), HeteroData()
    data["drug"].x, data["effect"].x = plain.x[:30], plain.x[30:, :4]
    data["drug"].y, data["effect"].y = plain.y[:30] % 2, plain.y[30:] % 2
    row, col = plain.edge_index
    for name, (low, high, a, b) in {"joins": (0, 30, "drug", "drug"), "causes": (30, 45, "drug", "effect")}.items():
        kept = (row < 30) & (col >= low) & (col < high)
        data[a, name, b].edge_index = torch.stack([row[kept], col[kept] - low])
    data = ToUndirected()(data)
    data["drug"].train_mask = torch.arange(30) % 3 > 0
    data["drug"].test_mask = torch.arange(30) % 3 == 0
    data["effect"].train_mask, data["effect"].test_mask = (torch.zeros(15, dtype=torch.bool) for _ in "ab")
    return data


class Transformed(nn.Module):
    """HGT, heterogeneous attention."""

    def __init__(self) -> None:
        super().__init__()
        widths = {kind: typed_graph()[kind].num_features for kind in typed_graph().node_types}
        self.conv, self.out = pyg.HGTConv(widths, 8, typed_graph().metadata(), heads=2), nn.Linear(8, 2)

    def forward(self, x: dict[str, Tensor], edges: dict[Any, Tensor]) -> dict[str, Tensor]:
        return {kind: self.out(h) for kind, h in self.conv(x, edges).items()}


def of_types(make: Callable[[], nn.Module]) -> tuple[Callable[[Any], nn.Module], Callable[[], Data]]:
    """Model and data of a typed graph, as one graph with types."""

    def model(data: Data) -> nn.Module:
        hetero = typed_graph()
        inner = make()
        inner(hetero.x_dict, hetero.edge_index_dict)  # lazy sizes
        return gu.homogeneous(inner, hetero)[0]

    return model, lambda: model(None) and gu.homogeneous(make(), typed_graph())[1]


def converted() -> nn.Module:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = pyg.SAGEConv((-1, -1), 8), pyg.SAGEConv((-1, -1), 2)

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return self.b(self.a(x, edge_index).relu(), edge_index)

    return pyg.to_hetero(Plain(), typed_graph().metadata())


def gine(data: Data) -> nn.Module:
    def layer(width: int, out: int) -> nn.Module:
        return pyg.GINEConv(nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, out)), edge_dim=2)

    return WithAttributes(layer(8, 8), layer(8, 3))


def gat(data: Data) -> nn.Module:
    return WithAttributes(pyg.GATv2Conv(8, 16, edge_dim=2), pyg.GATv2Conv(16, 3, edge_dim=2))


def rgcn(data: Data) -> nn.Module:
    return WithTypes(pyg.RGCNConv(8, 16, 2), pyg.RGCNConv(16, 3, 2))


def half(data: Data) -> nn.Module:
    return pyg.GraphSAGE(8, 16, 2, 3).bfloat16()


def half_classes() -> Data:
    data = classes()
    data.x = data.x.bfloat16()
    return data


def lightgcn(data: Data) -> nn.Module:
    return pyg.LightGCN(int(data.num_nodes), 16, 2)


HGT, HETERO = of_types(Transformed), of_types(converted)
KINDS = [
    Kind("model(data)", lambda d: OfData(pyg.GCNConv(8, 16), pyg.GCNConv(16, 3)), classes, call=lambda m, d: m(d)),
    Kind("adj_t @ x", lambda d: Matrix(), classes, call=by_matrix),
    Kind("pairs in forward", lambda d: Pairs(), links, LINKS, call=lambda m, d: m.embed(d.x, d.edge_index),
         decode=lambda m, z, pairs: m.score(z, pairs)),
    Kind("edge_time", lambda d: Timed(), lambda: classes(edge_time=per_edge()),
         call=lambda m, d: m(d.x, d.edge_index, d.edge_time)),
    Kind("LightGCN", lightgcn, links, LINKS, call=lambda m, d: m.get_embedding(d.edge_index)),
    Kind("GAE", lambda d: pyg.GAE(Encoder(False)), links, LINKS),
    Kind("VGAE in training mode", straight_from_training, links, LINKS, epochs=0),
    Kind("GPS", transformer, classes),
    Kind("regression", lambda d: pyg.GCN(8, 16, 2, 1), numbers, "node_regression"),
    Kind("multi-label", lambda d: pyg.GCN(8, 16, 2, 3), several_labels, "node_multilabel"),
    Kind("one logit", lambda d: pyg.GCN(8, 16, 2, 1), one_label, "node_multilabel"),
    Kind("GATv2, edge_attr", gat, lambda: classes(edge_attr=per_edge(2))),
    Kind("GINE, edge_attr", gine, lambda: classes(edge_attr=per_edge(2))),
    Kind("PNA, edge_attr", mixed, lambda: classes(edge_attr=per_edge(2))),
    Kind("RGCN", rgcn, lambda: classes(edge_type=relations)),
    Kind("HGT", *HGT),
    Kind("to_hetero", *HETERO),
    Kind("Lightning", lightning, classes),
    Kind("torch.compile", lambda d: torch.compile(pyg.GraphSAGE(8, 16, 2, 3)), classes),
    Kind("bfloat16", half, half_classes),
]  # fmt: skip


@functools.cache
def trained(kind: Kind, seed: int = 0) -> tuple[nn.Module, Data]:
    """A trained model of a kind, and its data."""
    with isolated_rng(seed):
        data = kind.data()
        model = kind.model(data)
    if kind.epochs:
        inner = getattr(model, "_orig_mod", model)
        inner = gu.train(inner, data, epochs=kind.epochs, lr=1e-2, seed=seed, eval_every=20, **kind.options).model
        if inner is not model and hasattr(model, "_orig_mod"):
            model._orig_mod.load_state_dict(inner.state_dict())
        else:
            model = inner
    return model, data


def request(kind: Kind, forget: str, data: Data) -> gu.Request:
    if forget == "nodes":
        labelled = data.train_mask if "train_mask" in data else torch.ones(int(data.num_nodes), dtype=torch.bool)
        return gu.ForgetNodes(labelled.nonzero().view(-1)[[3, 8]])
    return gu.ForgetEdges(count=3, seed=1)


def outputs(kind: Kind, model: nn.Module, data: Data) -> Tensor:
    """The user's own call of a model, which knows nothing of the package."""
    model = getattr(model, "_orig_mod", model)
    try:
        model = copy.deepcopy(model).eval()
    except RuntimeError:  # of tensors that the training left behind
        state = model.state_dict()
        model = kind.model(data).eval()
        model.load_state_dict(state)
    with torch.no_grad():
        if kind.call is not None:
            return kind.call(model, data)
        more = {k: data[k] for k in ("edge_attr", "edge_type") if k in data and kind.name not in ("torch.compile",)}
        return (model.encode if hasattr(model, "encode") else model)(data.x, data.edge_index, **more)


def run(kind: Kind, forget: str, cell: str) -> str:
    """Run a cell; return "yes", or the reason of a refusal. `AssertionError` or a foreign error is a fault."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, data = trained(kind)
        before = {k: v.clone() for k, v in model.state_dict().items()}
        columns = data.edge_index.clone()
        try:
            (_influence if cell == "influence" else _evaluate if cell == "evaluate" else _unlearn)(kind, forget, cell)
            said = "yes"
        except GunlearnError as error:
            said = str(error)
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), "the caller's model changed"
        assert torch.equal(data.edge_index, columns), "the caller's graph changed"
    return said


def _unlearn(kind: Kind, forget: str, method: str) -> None:
    model, data = trained(kind)
    options = {"epochs": 3} if method in ("finetune", "scrub", "gnndelete") else {}
    result = gu.unlearn(model, data, request(kind, forget, data), method, **kind.options, **options)
    gone = result.partition.forget_edge_index
    n = int(data.num_nodes)
    left = set((result.data.edge_index[0] * n + result.data.edge_index[1]).tolist())
    assert gone.size(1)
    assert not left & set((gone[0] * n + gone[1]).tolist()), "forgotten edges are still in the graph"
    own, other = (getattr(m, "_orig_mod", m) for m in (model, result.model))
    assert type(own) is type(other)
    assert method == "gnndelete" or set(own.state_dict()) == set(other.state_dict())
    after = outputs(kind, result.model, result.data)
    assert bool(torch.isfinite(after).all())
    unchanged = all(torch.equal(v, other.state_dict()[k]) for k, v in own.state_dict().items())
    if method == "utu":  # a table's rows of forgotten nodes are made new, and nothing else
        assert unchanged or "reset" in result.notes
        kept = slice(None) if unchanged else ~result.partition.is_forgotten_node
        assert torch.allclose(after[kept], outputs(kind, model, result.data)[kept], equal_nan=True)
    elif method != "gnndelete":
        assert not unchanged, "nothing was learned"


def _evaluate(kind: Kind, forget: str, cell: str) -> None:
    model, data = trained(kind)
    result = gu.unlearn(model, data, request(kind, forget, data), "utu", **kind.options)
    table = gu.evaluate(result, references=[trained(kind, seed)[0] for seed in (1, 2)])
    found = outputs(kind, model, result.data).double()
    test = result.data.get("test_mask")
    if kind.task == NODES:
        expected = float((found[test].argmax(1) == data.y[test]).double().mean())
        assert abs(table["test_acc"] - expected) < 1e-9
    elif kind.task == "node_regression":
        assert abs(table["test_mse"] - float((found[test].view(-1) - data.y[test]).square().mean())) < 1e-4
    elif kind.task == "node_multilabel":
        right = (found[test].view(-1) > 0) == (data.y[test].reshape(-1) > 0)
        yes = data.y[test].reshape(-1) > 0
        twice = 2 * float((right & yes).sum())
        assert abs(table["test_f1"] - twice / (twice + float((~right).sum()))) < 1e-9
    else:
        lists = [result.data[f"test_{sign}_edge_index"] for sign in ("pos", "neg")]
        pairs, label = torch.cat(lists, dim=1), torch.tensor([1] * lists[0].size(1) + [0] * lists[1].size(1))
        with torch.no_grad():
            own = None if kind.decode is None else kind.decode(model, found.float(), pairs)
        score = (found[pairs[0]] * found[pairs[1]]).sum(1) if own is None else own
        assert abs(table["retain_auc"] - roc_auc_score(label, score)) < 1e-6
    assert table["js_forget"] is not None
    assert 0 <= table["js_forget"] < 0.7


def _influence(kind: Kind, forget: str, cell: str) -> None:
    model, data = trained(kind)
    chosen = data.edge_index[:, [0, 5]] if forget == "edges" else torch.tensor([3, 8])
    target = "embeddings"
    scores = gu.influence(model, data, of=forget, items=chosen, target=target, **kind.options)
    before = outputs(kind, model, data)
    for item, score in zip(chosen.t(), scores, strict=True):
        row, col = data.edge_index
        if forget == "edges":
            gone = ((row == item[0]) & (col == item[1])) | ((row == item[1]) & (col == item[0]))
        else:
            gone = (row == item) | (col == item)
        edited = copy.copy(data)
        for name in data.keys():  # noqa: SIM118
            if name in ("edge_index", "edge_time", "edge_attr", "edge_type"):
                edited[name] = data[name][..., ~gone] if name == "edge_index" else data[name][~gone]
        edited.num_nodes = data.num_nodes
        change = (outputs(kind, model, edited) - before).float().norm(dim=1)
        if forget == "nodes":
            change[item] = 0
        expected, rough = float(change.sum()), 1e-3 if score.dtype == torch.float32 else 2e-2
        assert abs(expected - float(score)) <= rough * expected + 2e-4, (expected, float(score))
