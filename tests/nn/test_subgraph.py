"""k-hop subgraphs give the full graph's outputs, at a cost that does not depend on the rest of the graph."""

import copy

import pytest
import torch
from torch import nn
from torch_geometric.data import Data
from torch_geometric.nn import APPNP, GATConv, GATv2Conv, GCNConv, GINConv, GraphConv, SAGEConv, SGConv, TransformerConv

from gunlearn.errors import InvalidInputError
from gunlearn.nn import GCN, MessageScale, k_hop_subgraph, propagation_depth
from gunlearn.nn.kernels.subgraph import csr_rows

LAYERS = {
    "gcn": lambda a, b: GCNConv(a, b),
    "sage": lambda a, b: SAGEConv(a, b),
    "gin": lambda a, b: GINConv(nn.Linear(a, b)),
    "gat": lambda a, b: GATConv(a, b),
    "gatv2": lambda a, b: GATv2Conv(a, b),
    "graph": lambda a, b: GraphConv(a, b, aggr="max"),
    "transformer": lambda a, b: TransformerConv(a, b),
    "sgc": lambda a, b: SGConv(a, b, K=2),
}


class Stack(nn.Module):
    def __init__(self, kind: str, num_layers: int = 2) -> None:
        super().__init__()
        self.convs = nn.ModuleList(LAYERS[kind](8, 8) for _ in range(num_layers))

    def forward(self, x, edge_index):
        for conv in self.convs:
            x = conv(x, edge_index).tanh()
        return x


class Smoothed(nn.Module):
    """An MLP before ten steps of propagation."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.prop = nn.Linear(8, 8), APPNP(K=3, alpha=0.1)

    def forward(self, x, edge_index):
        return self.prop(self.lin(x), edge_index)


class Shared(nn.Module):
    """One layer used three times."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = GCNConv(8, 8)

    def forward(self, x, edge_index):
        for _ in range(3):
            x = self.conv(x, edge_index).relu()
        return x


def sparse_graph(directed: bool, num_nodes: int = 400, num_edges: int = 480) -> Data:
    generator = torch.Generator().manual_seed(1)
    edge_index = torch.randint(num_nodes, (2, num_edges), generator=generator)
    if not directed:
        edge_index = torch.cat([edge_index, edge_index.flip(0)], dim=1)
    edge_index = edge_index[:, torch.randperm(edge_index.size(1), generator=generator)]
    x = torch.randn(num_nodes, 8, generator=generator)
    return Data(x=x, edge_index=edge_index)


def model_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    return {"appnp": Smoothed, "shared": Shared, "own": lambda: GCN(8, 8, 4)}.get(name, lambda: Stack(name))()


SEEDS = torch.tensor([7, 3, 250, 3, 11, 50, 90, 120, 199, 300, 377])
MODELS = [*LAYERS, "appnp", "shared", "own"]


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_outputs_and_depth_are_those_of_the_full_graph(name: str, directed: bool) -> None:
    data, model = sparse_graph(directed), model_of(name).eval()
    depth = propagation_depth(model, data)
    assert depth == {"appnp": 3, "shared": 3, "sgc": 4}.get(name, 2)
    sub = k_hop_subgraph(data, SEEDS, depth)
    assert sub.data.num_nodes < data.num_nodes * 2 / 3
    full = model(data.x, data.edge_index)[SEEDS]
    torch.testing.assert_close(model(sub.data.x, sub.data.edge_index)[sub.relabel(SEEDS)], full, rtol=1e-5, atol=1e-5)
    # Control: without the last senders it differs for all of them, without their degree for those that normalise by it.
    for hops in (depth - 2, depth - 1) if name in ("gcn", "own", "sgc", "appnp") else (depth - 2,):
        short = k_hop_subgraph(data, SEEDS, hops)
        got = model(short.data.x, short.data.edge_index)[short.relabel(SEEDS)]
        assert not torch.allclose(got, full, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_hops", [0, 1, 2])
def test_holds_the_in_edges_of_all_nodes_within_reach(num_hops: int) -> None:
    data = sparse_graph(True)
    reach = set(SEEDS.tolist())  # brute force, by sets
    edges = list(enumerate(zip(*data.edge_index.tolist(), strict=True)))
    for _ in range(num_hops):
        reach |= {u for _, (u, v) in edges if v in reach}
    sub = k_hop_subgraph(data, SEEDS, num_hops)
    assert sub.ids.tolist() == sorted(reach)
    assert sorted(sub.e_id.tolist()) == [e for e, (_, v) in edges if v in reach]
    assert sub.data.num_nodes <= len(reach) + 1  # one node stands for the whole rim
    local = sub.n_id[sub.data.edge_index]
    assert torch.equal(local[1], data.edge_index[1, sub.e_id])
    inside = torch.isin(data.edge_index[0, sub.e_id], sub.ids)
    assert torch.equal(local[0, inside], data.edge_index[0, sub.e_id[inside]])


def test_the_same_again_after_other_calls_and_early_stop() -> None:
    data = sparse_graph(False)
    first = k_hop_subgraph(data, SEEDS, 2)
    assert k_hop_subgraph(data, torch.arange(400), 2, max_edges=10) is None
    assert k_hop_subgraph(data, SEEDS, 2, max_edges=first.data.num_edges - 1) is None
    with pytest.raises(IndexError):
        k_hop_subgraph(data, torch.tensor([5, 4000]), 2)
    again = k_hop_subgraph(data, SEEDS, 2, max_edges=first.data.num_edges)
    assert torch.equal(again.e_id, first.e_id)
    assert torch.equal(again.data.edge_index, first.data.edge_index)


def test_attributes_follow_their_nodes_and_edges() -> None:
    data = sparse_graph(True)
    number = data.num_nodes
    data.y, data.train_mask = torch.arange(number), torch.arange(number) % 2 == 0
    data.edge_weight = torch.arange(data.num_edges).float()
    data.edge_attr = torch.randn(data.num_edges, 3)
    data.title, data.names = "a graph", [str(i) for i in range(number)]
    data.val_pos_edge_index = torch.zeros(2, number, dtype=torch.long)  # as many as nodes, and still no node attribute
    before = set(data.keys())
    sub = k_hop_subgraph(data, SEEDS, 1)
    part = sub.data
    assert "val_pos_edge_index" not in part
    assert torch.equal(part.y, sub.n_id)
    assert torch.equal(part.train_mask, sub.n_id % 2 == 0)
    assert torch.equal(part.x, data.x[sub.n_id])
    assert torch.equal(part.edge_weight, sub.e_id.float())
    assert torch.equal(part.edge_attr, data.edge_attr[sub.e_id])
    assert part.names == [str(i) for i in sub.n_id.tolist()]
    assert part.title == "a graph"
    assert set(data.keys()) == before


def test_sparse_rows_without_a_dense_copy() -> None:
    dense = torch.randn(30, 12).relu()
    dense[4] = 0
    index = torch.tensor([4, 29, 0, 4, 17])
    rows = csr_rows(dense.to_sparse_csr(), index)
    assert rows.layout == torch.sparse_csr
    assert torch.equal(rows.to_dense(), dense[index])
    data = sparse_graph(False)
    data.x = data.x.relu().to_sparse_csr()
    sub = k_hop_subgraph(data, SEEDS, 1)
    assert sub.data.x.layout == torch.sparse_csr
    assert torch.equal(sub.data.x.to_dense(), data.x.to_dense()[sub.n_id])


def test_isolated_seeds_no_edges_and_strangers() -> None:
    data = Data(x=torch.randn(5, 8), edge_index=torch.empty(2, 0, dtype=torch.long))
    sub = k_hop_subgraph(data, torch.tensor([4, 2]), 3)
    assert sub.n_id.tolist() == [2, 4]
    assert sub.relabel(torch.tensor([[4, 2]])).tolist() == [[1, 0]]
    assert propagation_depth(model_of("gcn"), data) == 2
    with pytest.raises(InvalidInputError, match="Expected nodes of the subgraph"):
        sub.relabel(torch.tensor([3]))


def test_counting_leaves_nothing_behind() -> None:
    data = sparse_graph(False)
    model = nn.ModuleList([SGConv(8, 8, K=2, cached=True), nn.BatchNorm1d(8)]).train()
    model[1].eval()
    state, before = copy.deepcopy(model.state_dict()), set(model[0].__dict__)
    assert propagation_depth(model, data, lambda m, d: m[1](m[0](d.x, d.edge_index))) == 2
    assert propagation_depth(nn.Linear(8, 2), data, lambda m, d: m(d.x)) == 0
    assert set(model[0].__dict__) == before
    assert model[0].cached is True
    assert model[0]._cached_x is None
    assert model[0].training
    assert not model[1].training
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])
    with pytest.raises(RuntimeError):
        propagation_depth(model, data, lambda m, d: m[0](d.x[:, :3], d.edge_index))
    assert set(model[0].__dict__) == before


@pytest.mark.parametrize("name", ["own", "gcn", "sage"])
@torch.no_grad()
def test_message_scales_on_a_part(name: str) -> None:
    data, model = sparse_graph(True), model_of(name).eval()
    loops = torch.arange(400).expand(2, -1)
    named = torch.cat([data.edge_index[:, ::2], loops], dim=1).unique(dim=1)
    scale = torch.rand(named.size(1), generator=torch.Generator().manual_seed(2))
    full = MessageScale(model, named, scale)
    sub = k_hop_subgraph(data, SEEDS, 2)
    with full:
        want = model(data.x, data.edge_index)[SEEDS]
    with full.on(sub):
        got = model(sub.data.x, sub.data.edge_index)[sub.relabel(SEEDS)]
    plain = model(sub.data.x, sub.data.edge_index)[sub.relabel(SEEDS)]
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(plain, want, rtol=1e-3, atol=1e-3)
