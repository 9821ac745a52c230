"""Models, graphs and the before/after snapshot shared by the tests of `gunlearn.nn.attach`, with tests of their own."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric import EdgeIndex
from torch_geometric.nn import (
    APPNP,
    GATConv,
    GATv2Conv,
    GCN2Conv,
    GCNConv,
    GINConv,
    GraphConv,
    MessagePassing,
    RGCNConv,
    SAGEConv,
    SGConv,
    SSGConv,
    TransformerConv,
)
from torch_geometric.nn import Sequential as PyGSequential
from torch_geometric.nn.models import GAT, GCN, GraphSAGE

from gunlearn.errors import InvalidTypeError, UnsupportedModelError
from gunlearn.nn.attach.contexts import after_layer, removed_edges, scaled_messages
from gunlearn.nn.attach.message_layers import message_passing_layers
from gunlearn.nn.layers.influence_conv import InfluenceAwareConv

NUM_NODES, DIM, EDGE_DIM, NUM_RELATIONS = 9, 4, 3, 2


class UserConv(MessagePassing):
    """What a user might write: edge features inside the message, mean aggregation."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(aggr="mean")
        self.lin = nn.Linear(in_channels, out_channels)
        self.edge_lin = nn.Linear(EDGE_DIM, out_channels)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        return self.propagate(edge_index, x=self.lin(x), edge_attr=edge_attr)

    def message(self, x_j: Tensor, edge_attr: Tensor) -> Tensor:
        return torch.tanh(x_j + self.edge_lin(edge_attr))


class OuterConv(MessagePassing):
    """A layer that leaves all its work to a layer inside it."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.inner = GCNConv(in_channels, out_channels)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.inner(x, edge_index)


class Net(nn.Module):
    """Two layers in a ModuleList."""

    def __init__(self, conv: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.convs = nn.ModuleList([conv(DIM, DIM), conv(DIM, DIM)])

    def forward(self, x: Tensor, edge_index: Any, **per_edge: Tensor) -> Tensor:
        return self.convs[1](self.convs[0](x, edge_index, **per_edge).tanh(), edge_index, **per_edge)


class TwiceNet(nn.Module):
    """One layer used twice, edge weights by position."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = GCNConv(DIM, DIM)

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
        return self.conv(self.conv(x, edge_index, edge_weight).tanh(), edge_index, edge_weight)


class GCN2Net(nn.Module):
    """A layer whose `edge_index` is its third argument."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = GCN2Conv(DIM, alpha=0.1, cached=True)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.conv(x, x.tanh(), edge_index)


def gin(i: int, o: int) -> GINConv:
    return GINConv(nn.Sequential(nn.Linear(i, o), nn.Tanh(), nn.Linear(o, o)))


W, A, T = "edge_weight", "edge_attr", "edge_type"
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "gcn": (lambda: Net(GCNConv), ()),
    "gcn-no-loops": (lambda: Net(lambda i, o: GCNConv(i, o, add_self_loops=False)), ()),
    "gcn-weights": (lambda: Net(GCNConv), (W,)),
    "gcn-cached": (lambda: Net(lambda i, o: GCNConv(i, o, cached=True)), ()),
    "gcn-target-to-source": (lambda: Net(lambda i, o: GCNConv(i, o, flow="target_to_source")), ()),
    "sage": (lambda: Net(SAGEConv), ()),
    "sage-max": (lambda: Net(lambda i, o: SAGEConv(i, o, aggr="max")), ()),
    "gat": (lambda: Net(lambda i, o: GATConv(i, o // 2, heads=2)), ()),
    "gat-no-loops": (lambda: Net(lambda i, o: GATConv(i, o, add_self_loops=False)), ()),
    "gat-edge-attr": (lambda: Net(lambda i, o: GATConv(i, o, heads=2, concat=False, edge_dim=EDGE_DIM)), (A,)),
    "gatv2": (lambda: Net(lambda i, o: GATv2Conv(i, o // 2, heads=2)), ()),
    "gin": (lambda: Net(gin), ()),
    "graph": (lambda: Net(GraphConv), (W,)),
    "graph-mean": (lambda: Net(lambda i, o: GraphConv(i, o, aggr="mean")), (W,)),
    "transformer": (lambda: Net(lambda i, o: TransformerConv(i, o // 2, heads=2, edge_dim=EDGE_DIM)), (A,)),
    "appnp": (lambda: Net(lambda i, o: APPNP(K=3, alpha=0.2)), (W,)),
    "appnp-cached": (lambda: Net(lambda i, o: APPNP(K=3, alpha=0.2, cached=True)), ()),
    "sg-cached": (lambda: SGConv(DIM, DIM, K=2, cached=True), ()),
    "ssg-cached": (lambda: SSGConv(DIM, DIM, alpha=0.1, K=2, cached=True), ()),
    "gcn2-cached": (GCN2Net, ()),
    "rgcn": (lambda: Net(lambda i, o: RGCNConv(i, o, NUM_RELATIONS)), (T,)),
    "user": (lambda: Net(UserConv), (A,)),
    "native": (lambda: Net(InfluenceAwareConv), ()),
    "nested": (lambda: Net(OuterConv), ()),
    "twice": (TwiceNet, (W,)),
    "pyg-sequential": (
        lambda: PyGSequential(
            "x, edge_index",
            [(GCNConv(DIM, DIM), "x, edge_index -> x"), nn.Tanh(), (SAGEConv(DIM, DIM), "x, edge_index -> x")],
        ),
        (),
    ),
    "models.GCN": (lambda: GCN(DIM, DIM, num_layers=2), (W,)),
    "models.GraphSAGE": (lambda: GraphSAGE(DIM, DIM, num_layers=2), ()),
    "models.GAT": (lambda: GAT(DIM, DIM, num_layers=2, heads=2), ()),
}

# Directed; a duplicate (0, 1), self-loops at 2 and 5, and node 8 isolated.
EDGE_INDEX = torch.tensor([[0, 1, 0, 2, 2, 3, 4, 5, 5, 6, 7, 1, 3, 6], [1, 0, 1, 2, 3, 1, 5, 5, 4, 7, 0, 2, 0, 4]])
REMOVED = torch.tensor([0, 2, 3, 6, 9])  # both copies of (0, 1), the self-loop at 2, (4, 5), (6, 7)
KEEP = ~torch.isin(torch.arange(EDGE_INDEX.size(1)), REMOVED)
SCALE = torch.linspace(0.1, 1.9, EDGE_INDEX.size(1), dtype=torch.float64)
SCALE[2] = SCALE[0]  # one value for both copies of (0, 1)
#: PyG's fused kernels for sparse graphs treat self-loops and repeated edges in ways of their own.
SIMPLE = EDGE_INDEX[:, EDGE_INDEX[0] != EDGE_INDEX[1]].unique(dim=1)
EDITS: dict[str, Callable[[nn.Module], contextlib.AbstractContextManager]] = {
    "removed": lambda model: removed_edges(model, EDGE_INDEX[:, REMOVED]),
    "scaled": lambda model: scaled_messages(model, EDGE_INDEX, SCALE),
    "after": lambda model: after_layer(model, torch.exp),
}


def other_graph(layout: str, edge_index: Tensor, dtype: torch.dtype, weight: Tensor | None = None) -> Tensor:
    """A graph as PyG's `adj_t`, which holds targets in its rows, or as an `EdgeIndex`."""
    size = (NUM_NODES, NUM_NODES)
    weight = torch.ones(edge_index.size(1), dtype=dtype) if weight is None else weight
    adj_t = torch.sparse_coo_tensor(edge_index.flip(0), weight, size).coalesce()
    by_target = edge_index[:, edge_index[1].argsort(stable=True)]
    return {
        "csr": adj_t.to_sparse_csr,
        "coo": lambda: adj_t,
        "edge_index": lambda: EdgeIndex(edge_index.contiguous(), sparse_size=size),
        "sorted_edge_index": lambda: EdgeIndex(by_target.contiguous(), sparse_size=size, sort_order="col"),
    }[layout]()


def build(case: str) -> tuple[nn.Module, Tensor, dict[str, Tensor]]:
    """Model, features and per-edge arguments of a case, all float64."""
    torch.manual_seed(0)
    make, names = CASES[case]
    model = make().double()
    for parameter in model.parameters():  # zero biases would hide errors
        nn.init.normal_(parameter, std=0.5)
    num_edges = EDGE_INDEX.size(1)
    values = {
        W: torch.rand(num_edges, dtype=torch.float64) + 0.5,
        A: torch.randn(num_edges, EDGE_DIM, dtype=torch.float64),
        T: torch.arange(num_edges) % NUM_RELATIONS,
    }
    return model, torch.randn(NUM_NODES, DIM, dtype=torch.float64), {name: values[name] for name in names}


def gradients(model: nn.Module, out: Tensor) -> list[Tensor]:
    parameters = list(model.parameters())
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return list(torch.autograd.grad((out * weight).sum(), parameters, allow_unused=True)) if parameters else []


def assert_same(left: list[Tensor], right: list[Tensor]) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert torch.isfinite(one).all()
            assert torch.equal(one, other)


def snapshot(model: nn.Module) -> dict[str, Any]:
    """All that attaching could leave behind: attributes, hooks, explain flags, caches, parameters, buffers."""
    state: dict[str, Any] = {"state_dict": {k: (id(v), v.clone()) for k, v in model.state_dict(keep_vars=True).items()}}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, dict):  # hooks, parameters, buffers, submodules
                state[f"{name}/{key}"] = [(k, id(v)) for k, v in value.items()]
            elif key == "inspector":
                state[f"{name}/{key}"] = sorted(value._signature_dict)
            elif key != "ran":  # which way the native layer's last pass went
                state[f"{name}/{key}"] = id(value)
    return state


@contextlib.contextmanager
def nothing_left(model: nn.Module) -> Iterator[None]:
    """Fail if the block changes anything in the model."""
    before = snapshot(model)
    yield
    after = snapshot(model)
    assert before.keys() == after.keys(), before.keys() ^ after.keys()
    for key in before.keys() - {"state_dict"}:
        assert before[key] == after[key], key
    assert before["state_dict"].keys() == after["state_dict"].keys()
    for key, (identity, value) in before["state_dict"].items():
        assert identity == after["state_dict"][key][0]
        assert torch.equal(value, after["state_dict"][key][1])


def _leak(kind: str, model: Net) -> None:
    conv = model.convs[0]
    if kind == "hook":
        conv.register_forward_hook(lambda *_: None)
    elif kind == "explain":
        conv.explain = True
    elif kind == "attribute":
        conv.message = conv.message
    elif kind == "cache":
        conv._cached_edge_index = (EDGE_INDEX, None)
    elif kind == "value":
        conv.bias.data[0] += 1


@pytest.mark.parametrize("kind", ["hook", "explain", "attribute", "cache", "value"])
def test_snapshot_sees_every_kind_of_leak(kind):
    model, _, _ = build("gcn")
    with pytest.raises(AssertionError), nothing_left(model):
        _leak(kind, model)


def test_layers_are_the_outermost_ones_by_name():
    assert list(message_passing_layers(build("nested")[0])) == ["convs.0", "convs.1"]
    assert list(message_passing_layers(build("twice")[0])) == ["conv"]
    assert list(message_passing_layers(build("models.GAT")[0])) == ["convs.0", "convs.1"]
    assert list(message_passing_layers(GCNConv(2, 2))) == [""]
    model = build("gcn")[0]
    assert message_passing_layers(model)["convs.1"] is model.convs[1]


def test_layers_keep_their_names_when_compiled():
    model = build("gcn")[0]
    assert list(message_passing_layers(torch.compile(model, backend="eager"))) == ["convs.0", "convs.1"]
    model.convs[0] = torch.compile(model.convs[0], backend="eager")
    assert list(message_passing_layers(model)) == ["convs.0", "convs.1"]


def test_models_without_layers_are_named():
    with pytest.raises(UnsupportedModelError, match="Linear"):
        message_passing_layers(nn.Linear(2, 2))
    with pytest.raises(UnsupportedModelError, match="Sequential"):
        message_passing_layers(torch.compile(nn.Sequential(nn.Linear(2, 2)), backend="eager"))
    with pytest.raises(InvalidTypeError, match="function"):
        message_passing_layers(lambda x: x)


def test_a_layer_without_edge_index_is_named():
    class Hyper(MessagePassing):
        def forward(self, x: Tensor, hyperedge_index: Tensor) -> Tensor:
            return x

    model = nn.ModuleDict({"good": GCNConv(2, 2), "odd": Hyper()})
    with pytest.raises(UnsupportedModelError, match=r"'odd'.*hyperedge_index"), removed_edges(model, EDGE_INDEX):
        pass
    assert "forward" not in vars(model["good"])
    with removed_edges(model, EDGE_INDEX, layers=["good"]):
        assert "forward" in vars(model["good"])
