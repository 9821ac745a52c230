"""NORA against a literal transcription of its formula in python loops, and against the expression of INPO's code."""

import math
from itertools import pairwise

import pytest
import torch
import torch_geometric
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import dropout
from torch_geometric.data import Data
from torch_geometric.nn import GATConv, GCNConv, GINConv, SAGEConv

from gunlearn.attribution import inpo_edge_scores, min_max, nora
from gunlearn.errors import InvalidInputError, UnsupportedMethodError, UnsupportedModelError
from gunlearn.nn import GCN, plain_path
from gunlearn.testing import data_snapshot, equal, model_snapshot, random_snapshot

NUM_NODES = 14
LAYERS = {
    "gcn": GCNConv,
    "sage": SAGEConv,
    "gin": lambda a, b: GINConv(nn.Sequential(nn.Linear(a, b), nn.Tanh(), nn.Linear(b, b))),
    "gat": GATConv,
}


class Net(nn.Module):
    """Layers of one kind with ReLU between; keeps what each layer got, before the ReLU too."""

    def __init__(self, kind="gcn", depth=2, keep=True):
        super().__init__()
        torch.manual_seed(depth)
        sizes = [5, *[6] * (depth - 1), 4]
        self.layers = nn.ModuleList(LAYERS[kind](a, b) for a, b in pairwise(sizes))
        self.keep, self.inputs, self.before_relu = keep, [], []

    def forward(self, x, edge_index):
        self.inputs, self.before_relu = [x], [x]
        h = self.layers[0](x, edge_index)
        for layer in self.layers[1:]:
            self.before_relu.append(h)
            h = h.relu()
            self.inputs.append(h)
            h = layer(h, edge_index)
        return h


def graph(seed=0, directed=False, extra=()):
    """Nodes 12 and 13 are isolated, 11 has degree 1 (undirected)."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(11, (2, 22), generator=generator)
    index = index[:, index[0] != index[1]]
    index = torch.cat([index, torch.tensor([[11], [0]])], dim=1)
    if not directed:
        index = torch.cat([index, index.flip(0)], dim=1)
    index = index.unique(dim=1)
    if len(extra):
        index = torch.cat([index, torch.tensor(extra).t()], dim=1)
    x = torch.randn(NUM_NODES, 5, generator=generator, dtype=torch.float64)
    return Data(x=x, edge_index=index)


def degrees_and_neighbours(edge_index, num_nodes):
    """Counted by hand, self-loops left out: for each node those that send to it."""
    neighbours = [[] for _ in range(num_nodes)]
    for u, v in edge_index.t().tolist():
        if u != v:
            neighbours[v].append(u)
    return [len(n) for n in neighbours], neighbours


def literal(model, data, beta=8.0, p=1.0, k1=1.0, k2=(0.5, 0.0), k3=1.0):
    """The formula of `gunlearn.attribution.removal.nora`, node by node and neighbour by neighbour, in float64."""
    n = data.num_nodes
    degree, neighbours = degrees_and_neighbours(data.edge_index, n)
    mean_degree = sum(degree) / n
    x = data.x.clone().requires_grad_()
    out = torch.softmax(model(x, data.edge_index), dim=-1)
    inputs = model.inputs
    for h in inputs[1:]:
        h.retain_grad()
    out.backward(gradient=out.detach())
    acc, rate = [0.0] * n, [1.0] * n
    for h in reversed(inputs):
        grads, values = h.grad.tolist(), h.detach().tolist()
        for v in range(n):
            g = sum(abs(a * b) ** p for a, b in zip(grads[v], values[v], strict=True)) ** (1 / p)
            acc[v] += rate[v] * g * degree[v] / (degree[v] + beta)
            rate[v] *= 1 - degree[v] / ((n - 1) * (mean_degree + beta))

    def delta(d):
        if d == 0:
            return 0.0  # sends nothing
        if d == 1:
            return 1.0  # infinite in the formula
        symmetric, mean = 1 / math.sqrt(d - 1) - 1 / math.sqrt(d), 1 / (d - 1) - 1 / d
        return k1 * symmetric + (1 - k1) * mean

    # A node of in-degree 0 may send (directed graphs); the formula would divide by 0.
    weight = [k2[0] / math.sqrt(max(d, 1)) + k2[1] / max(d, 1) + 1 - k2[0] - k2[1] for d in degree]
    inner = [sum(weight[u] for u in neighbours[v]) for v in range(n)]
    gather = [sum(inner[u] * delta(degree[u]) for u in neighbours[v]) for v in range(n)]
    mean_acc, mean_gather = sum(acc) / n, sum(gather) / n
    scale = k3 / mean_gather * mean_acc if mean_gather else 0.0
    model.zero_grad(set_to_none=True)
    return torch.tensor([abs(a + scale * b) for a, b in zip(acc, gather, strict=True)], dtype=torch.float64)


def assert_close(found, expected):
    """To the precision of float32 sums."""
    torch.testing.assert_close(found.double(), expected.double(), rtol=2e-5, atol=1e-6 * float(expected.max()))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("directed", [False, True])
def test_equals_the_literal_formula(kind, depth, directed):
    model = Net(kind, depth).double()
    # A self-loop and a repeated edge; in a directed graph a node that sends to others may have in-degree 0.
    data = graph(directed=directed, extra=[(2, 2), (0, 11), (0, 11)])
    expected = literal(model, data)
    assert_close(nora(model, data), expected)
    if directed:  # control: the other direction counts other degrees
        flipped = literal(model, Data(x=data.x, edge_index=data.edge_index.flip(0)))
        assert not torch.allclose(flipped, expected, rtol=1e-2)


@pytest.mark.parametrize(
    "options",
    [
        {"beta": 1.0},
        {"p": 2.0},
        {"k1": 0.0},
        {"k1": 0.3},
        {"k2": (0.2, 0.3)},
        {"k2": (0.0, 0.0)},
        {"k2": (3.0, 0.0)},  # weights, and so the aggregation term, are negative in the mean
        {"k3": 0.0},
        {"k3": 10.0},
        {"k3": -2.0},
    ],
    ids=str,
)
def test_every_constant_has_its_place(options):
    model, data = Net().double(), graph()
    expected = literal(model, data, **options)
    assert_close(nora(model, data, **options), expected)
    assert not torch.allclose(expected, literal(model, data), rtol=1e-3)  # control: it has an effect at all


@settings(max_examples=15)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=16),
    st.floats(0.5, 20),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 3),
)
def test_equals_the_literal_formula_on_random_graphs(edges, beta, k1, share, k3):
    model = Net().double()
    data = Data(x=graph().x[:7], edge_index=torch.tensor(edges, dtype=torch.long).view(-1, 2).t())
    options = {"beta": beta, "k1": k1, "k2": (share / 2, share / 3), "k3": k3}
    found = nora(model, data, **options)
    assert torch.isfinite(found).all()
    assert (found >= 0).all()
    assert_close(found, literal(model, data, **options))


def inpo_expression(model, data):
    """The influence in INPO's code: x and the hidden state before the ReLU of a 2-layer GCN, undirected graph."""
    n, edge_index = data.num_nodes, data.edge_index
    x = data.x.clone().requires_grad_()
    out = torch.softmax(model(x, edge_index), dim=-1)
    h1 = model.before_relu[1]
    h1.retain_grad()
    out.backward(gradient=out.detach())
    degree = torch.bincount(edge_index[1], minlength=n).double()
    mean_degree = degree.mean()
    g_x, g_h1 = ((h.grad * h).abs().sum(1).detach() * degree / (degree + 8) for h in (x, h1))
    gradient = g_h1 + (1 - degree / (n - 1) / (mean_degree + 8)) * g_x
    d1 = 1 / (degree - 1).sqrt() - 1 / degree.sqrt()
    d1[torch.isinf(d1)] = 1
    adjacency = torch.zeros(n, n, dtype=torch.float64)
    adjacency[edge_index[0], edge_index[1]] = 1
    linked = [adjacency[v].nonzero().view(-1) for v in range(n)]
    a = torch.stack([(0.5 / degree[u].sqrt() + 0.5).sum() for u in linked])
    b = torch.stack([(a[u] * d1[u]).sum() for u in linked])
    model.zero_grad(set_to_none=True)
    return (gradient + b / b.mean() * gradient.mean()).abs()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_the_expression_of_inpo(seed):
    model, data = Net("gcn", 2).double(), graph(seed)
    expected = inpo_expression(model, data)
    found = nora(model, data)
    assert_close(found, expected)
    assert_close(min_max(found), (expected - expected.min()) / (expected.max() - expected.min()))
    # Controls: the aggregation term alone, and the gradient term alone, are something else.
    assert not torch.allclose(nora(model, data, k3=0.0).double(), expected, rtol=1e-2)


def test_isolated_and_degree_one_nodes_are_finite():
    # The official NaN test, `== np.nan`, is never true; one NaN would spoil the min-max of all nodes.
    model, data = Net().double(), graph()
    degree, _ = degrees_and_neighbours(data.edge_index, NUM_NODES)
    assert degree[12] == degree[13] == 0
    assert degree[11] == 1
    for d in (data, graph(extra=[(12, 12), (3, 3)]), Data(x=data.x, edge_index=torch.tensor([[0, 1], [1, 0]]))):
        score = nora(model, d)
        assert torch.isfinite(score).all()
        assert torch.isfinite(min_max(score)).all()
        assert (score[:2] > 0).all()
        assert score[12] == 0  # d / (d + beta) of an isolated node
    empty = nora(model, Data(x=data.x, edge_index=torch.empty(2, 0, dtype=torch.long)))
    assert torch.equal(empty, torch.zeros(NUM_NODES))
    alone = nora(model, Data(x=data.x[:1], edge_index=torch.tensor([[0], [0]])))
    assert torch.isfinite(alone).all()


def test_self_loops_do_not_count_as_degree():
    model = Net("sage").double()
    data = graph()
    looped = graph(extra=[(v, v) for v in range(NUM_NODES)])
    assert_close(nora(model, looped), literal(model, looped))
    # The gradients differ; the aggregation term, which knows degrees alone, does not.
    share = [nora(model, d, k3=1e9) for d in (data, looped)]
    torch.testing.assert_close(share[0] / share[0].mean(), share[1] / share[1].mean(), rtol=1e-4, atol=1e-6)


class Restless(nn.Module):
    """Dropout by module and by function, batch norm, and dropout that is never switched off."""

    def __init__(self, always=False):
        super().__init__()
        self.first, self.second = GCNConv(5, 6), GATConv(6, 4, dropout=0.5)
        self.norm, self.drop, self.always = nn.BatchNorm1d(6), nn.Dropout(0.5), always

    def forward(self, x, edge_index):
        h = self.drop(self.norm(self.first(x, edge_index)).relu())
        return dropout(self.second(h, edge_index), 0.5, training=self.always)


def test_leaves_no_trace():
    model, data = Restless().double(), graph()
    model.train()
    model.drop.eval()  # a user who froze one module
    for p in model.parameters():  # gradients left over from the official code's estimate reach the first step
        p.grad = torch.full_like(p, 3.0)
    before = model_snapshot(model), data_snapshot(data), random_snapshot()
    first = nora(model, data)
    assert equal(before, (model_snapshot(model), data_snapshot(data), random_snapshot()))  # batch norm too
    assert not first.requires_grad
    assert torch.equal(nora(model, data), first)  # deterministic: random layers are off

    always, state = Restless(always=True).double(), random_snapshot()
    nora(always, data)
    assert equal(random_snapshot(), state)


def test_leaves_no_trace_when_the_model_fails():
    class Failing(Net):
        def forward(self, x, edge_index):
            super().forward(x, edge_index)
            raise ZeroDivisionError

    model = Failing().double().train()
    with pytest.raises(UnsupportedModelError, match="ZeroDivisionError of Failing"):
        nora(model, graph())
    assert all(m.training and not m._forward_pre_hooks for m in model.modules())


def test_frozen_models_and_no_grad_are_fine():
    model, data = Net().double(), graph()
    expected = nora(model, data)
    with torch.no_grad():
        assert torch.equal(nora(model, data), expected)
    model.requires_grad_(False)
    assert_close(nora(model, data), expected)


def test_follows_edits_of_the_graph():
    model, data = Net().double(), graph()
    nora(model, data)
    data.edge_index[:, 0] = torch.tensor([12, 13])
    assert_close(nora(model, data), literal(model, data))


def test_sees_edge_weights_that_the_model_takes():
    model, data = GCNConv(5, 4).double(), graph()
    plain = nora(model, data)
    data.edge_weight = torch.linspace(0.1, 3, data.edge_index.size(1), dtype=torch.float64)
    assert not torch.allclose(nora(model, data), plain, rtol=1e-2)


def test_models_it_cannot_read():
    data = graph()
    with pytest.raises(UnsupportedModelError, match="MessagePassing"):
        nora(nn.Linear(5, 4), data)

    class Detached(Net):
        def forward(self, x, edge_index):
            with torch.no_grad():
                return super().forward(x, edge_index)

    with pytest.raises(UnsupportedModelError, match="gradients"):
        nora(Detached().double(), data)

    class Embedded(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.conv = nn.Embedding(NUM_NODES, 5), GCNConv(5, 4)

        def forward(self, x, edge_index):
            return self.conv(self.embedding.weight, edge_index)

    model, bare = Embedded(), Data(edge_index=data.edge_index, num_nodes=NUM_NODES)
    before = nora(model, bare)  # no features at all
    assert before.shape == (NUM_NODES,)
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(nora(model.requires_grad_(False), bare), before)  # frozen: as a reference model is


def test_broken_models_are_refused():
    model = Net().double()
    with torch.no_grad():
        model.layers[0].lin.weight[0, 0] = float("nan")
    with pytest.raises(InvalidInputError, match="finite"):
        nora(model, graph())


def test_edge_scores_and_min_max():
    influence = torch.tensor([3.0, 1.0, 5.0, 2.0], dtype=torch.float64)
    scaled = [0.5, 0.0, 1.0, 0.25]
    edge_index = torch.tensor([[0, 1, 2, 2], [1, 2, 2, 3]])
    assert min_max(influence).tolist() == scaled
    expected = [scaled[u] + scaled[v] for u, v in edge_index.t().tolist()]
    assert inpo_edge_scores(influence, edge_index).tolist() == expected
    assert torch.equal(inpo_edge_scores(influence, edge_index.flip(0)), inpo_edge_scores(influence, edge_index))
    assert inpo_edge_scores(influence * 7 + 2, edge_index).tolist() == pytest.approx(expected)  # scale and shift free
    assert min_max(torch.full((3,), 2.5)).tolist() == [0.0, 0.0, 0.0]
    for bad in (float("nan"), float("inf"), -float("inf")):
        spoiled = torch.tensor([1.0, bad, 2.0])
        with pytest.raises(InvalidInputError, match="finite"):
            min_max(spoiled)
        with pytest.raises(InvalidInputError, match="finite"):
            inpo_edge_scores(spoiled, torch.tensor([[0], [2]]))


# Sparse features ##############################################################


class ByHand(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.weight = GCNConv(80, 4), nn.Parameter(torch.randn(80, 4))

    def forward(self, x, edge_index):
        return self.conv(x, edge_index) + x @ self.weight


SPARSE_MODELS = {
    "gcn": lambda: GCN(80, 8, 4),
    "gcn_pyg": lambda: torch_geometric.nn.GCN(80, 8, 2, 4),
    "sage": lambda: torch_geometric.nn.GraphSAGE(80, 8, 2, 4),
    "gin": lambda: torch_geometric.nn.GIN(80, 8, 2, 4),
    "gat": lambda: torch_geometric.nn.GAT(80, 8, 2, 4),
    "linear_first": lambda: torch_geometric.nn.Sequential(
        "x, edge_index", [(nn.Linear(80, 6), "x -> h"), nn.Tanh(), (GCNConv(6, 4), "h, edge_index -> h")]
    ),
    # Reads the features past our kernels as well: the sparse way would lose gradient, and is not taken.
    "residual": lambda: torch_geometric.nn.Sequential(
        "x, edge_index",
        [(GCNConv(80, 4), "x, edge_index -> h"), (lambda x: x[:, :4] * 3, "x -> r"), (lambda h, r: h + r, "h, r -> h")],
    ),
    "weight_times_features": ByHand,
}


@pytest.mark.parametrize(
    ("name", "p"), [(name, 1.0) for name in SPARSE_MODELS] + [("gcn", 2.0), ("gcn", math.inf), ("residual", math.inf)]
)
def test_sparse_features_score_alike_and_are_never_dense(name, p):
    torch.manual_seed(0)
    model, index = SPARSE_MODELS[name](), graph().edge_index
    x = torch.zeros(NUM_NODES, 80).scatter_(1, torch.randint(80, (NUM_NODES, 3)), torch.rand(NUM_NODES, 3))

    def run(features):
        return nora(model, Data(x=features, edge_index=index, num_nodes=NUM_NODES), p=p)

    with plain_path():
        expected = run(x)
    for features in (x.clone(), x.to_sparse_csr()):
        torch.testing.assert_close(run(features), expected, rtol=1e-4, atol=1e-6)
    x[0] *= 5  # control: the features matter to the scores
    with plain_path():
        assert not torch.allclose(run(x), expected, rtol=1e-3)


def test_features_without_a_gradient_are_refused_in_words():
    data = graph()
    data.x = data.x > 0
    with pytest.raises(UnsupportedMethodError, match=r"floating point features .*torch\.bool.*x\.float\(\)"):
        nora(Net().double(), data)
