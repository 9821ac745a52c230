"""The fused path against PyG's own gather-scatter: every supported layer, graph and feature layout."""

import contextlib
import copy
import gc
import weakref

import pytest
import torch
import torch_geometric.nn as pyg
from torch import nn
from torch_geometric.data import Data

from gunlearn.errors import InvalidInputError, UnsupportedModelError
from gunlearn.nn import after_layer, fast_path, path_of, plain_path, removed_edges, scaled_messages
from gunlearn.nn.kernels import sparse
from gunlearn.nn.kernels.attention import ATTENTION
from gunlearn.nn.kernels.bag_of_words import sparse_features
from gunlearn.nn.kernels.fused import LINEAR
from gunlearn.tasks import LinkPrediction

NUM_NODES, DIM = 40, 70


class Net(nn.Module):
    """Two layers with something between, as users write them."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x, edge_index, edge_weight=None):
        extra = () if edge_weight is None else (edge_weight,)
        return self.second(self.first(x, edge_index, *extra).relu(), edge_index, *extra)


class Deep(nn.Module):
    """GCNII: the first layer's output enters every other."""

    def __init__(self):
        super().__init__()
        self.lin, self.conv, self.out = nn.Linear(DIM, 8), pyg.GCN2Conv(8, alpha=0.3), nn.Linear(8, 4)

    def forward(self, x, edge_index):
        h = self.lin(x).relu()
        return self.out(self.conv(h, h.clone(), edge_index))


class Diffused(nn.Module):
    def __init__(self, propagation):
        super().__init__()
        self.lin, self.propagation = pyg.Linear(DIM, 4), propagation

    def forward(self, x, edge_index, edge_weight=None):
        return self.propagation(self.lin(x), edge_index, edge_weight)


def mlp(a, b):
    return nn.Sequential(nn.Linear(a, 8), nn.ReLU(), nn.Linear(8, b))


MODELS = {
    "gcn": lambda: pyg.GCN(DIM, 8, 2, 4),
    "gcn_improved": lambda: Net(pyg.GCNConv(DIM, 8, improved=True), pyg.GCNConv(8, 4, add_self_loops=False)),
    "gcn_unnormalised": lambda: Net(pyg.GCNConv(DIM, 8, normalize=False), pyg.GCNConv(8, 4, bias=False)),
    "gcn_backwards": lambda: Net(pyg.GCNConv(DIM, 8, flow="target_to_source"), pyg.GCNConv(8, 4)),
    "sage": lambda: pyg.GraphSAGE(DIM, 8, 2, 4),
    "sage_sum": lambda: Net(pyg.SAGEConv(DIM, 8, aggr="sum"), pyg.SAGEConv(8, 4, aggr="add", normalize=True)),
    "sage_project": lambda: Net(pyg.SAGEConv(DIM, 8, project=True), pyg.SAGEConv(8, 4, root_weight=False)),
    "gin": lambda: pyg.GIN(DIM, 8, 2, 4),
    "gin_eps": lambda: Net(pyg.GINConv(mlp(DIM, 8), train_eps=True, eps=0.3), pyg.GINConv(nn.Linear(8, 4))),
    "sgc": lambda: pyg.SGConv(DIM, 4, K=3),
    "sgc_twice": lambda: Net(pyg.SGConv(DIM, 8, K=2), pyg.SGConv(8, 4, K=1, add_self_loops=False)),
    "appnp": lambda: Diffused(pyg.APPNP(K=4, alpha=0.2)),
    "graphconv": lambda: Net(pyg.GraphConv(DIM, 8, aggr="mean"), pyg.GraphConv(8, 4)),
    "tag": lambda: Net(pyg.TAGConv(DIM, 8), pyg.TAGConv(8, 4, K=1)),
    "lg": lambda: Diffused(pyg.LGConv()),
    "ssg": lambda: Diffused(pyg.SSGConv(4, 4, alpha=0.1, K=2)),
    "gcnii": Deep,
    "gat": lambda: pyg.GAT(DIM, 8, 2, 4),
    "gat_heads": lambda: Net(pyg.GATConv(DIM, 4, heads=3, residual=True), pyg.GATConv(12, 4, heads=2, concat=False)),
    "gat_backwards": lambda: Net(pyg.GATConv(DIM, 8, flow="target_to_source"), pyg.GATConv(8, 4, add_self_loops=False)),
    "gatv2": lambda: Net(pyg.GATv2Conv(DIM, 4, heads=2), pyg.GATv2Conv(8, 4, share_weights=True)),
}
WEIGHTED = ("gcn_improved", "gcn_unnormalised", "sgc_twice", "appnp", "graphconv", "tag", "lg", "ssg")
UNFUSED = {
    "transformer": (lambda: Net(pyg.TransformerConv(DIM, 8), pyg.TransformerConv(8, 4)), "TransformerConv"),
    "sage_max": (lambda: Net(pyg.SAGEConv(DIM, 8, aggr="max"), pyg.SAGEConv(8, 4, aggr="max")), "aggr='max'"),
}


def test_every_fused_layer_has_a_case():
    found = {type(m) for make in MODELS.values() for m in make().modules()}
    assert {*LINEAR, *ATTENTION} <= found


def graph(kind="undirected", dtype=torch.float32):
    """Isolated nodes, a hub, self-loops and repeated edges; directed or not."""
    generator = torch.Generator().manual_seed(1)
    index = torch.randint(NUM_NODES - 3, (2, 90), generator=generator)
    index[1, :20] = 0
    if kind == "undirected":
        index = torch.cat([index, index.flip(0)], dim=1)
    if kind == "empty":
        index = index[:, :0]
    x = torch.zeros(NUM_NODES, DIM, dtype=dtype)
    x.scatter_(1, torch.randint(DIM, (NUM_NODES, 3), generator=generator), 1.0)
    return x, index


def outputs(model, x, index, *extra):
    model.zero_grad()
    out = model(x, index, *extra)
    out.pow(2).sum().backward()
    return out.detach(), [p.grad.clone() for p in model.parameters()]


def assert_same(found, expected):
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-5)
    for a, b in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def with_features(layout, x):
    """Features dense without being known as sparse, dense and known, or CSR."""
    x = x.to_sparse_csr() if layout == "csr" else x.clone()
    if layout == "known":
        assert sparse_features(x) is not None
    return x


@pytest.mark.parametrize(
    ("kind", "layout"),
    [("undirected", "dense"), ("undirected", "known"), ("directed", "csr"), ("empty", "csr")],
)
@pytest.mark.parametrize("name", MODELS)
def test_equals_the_plain_path(name, kind, layout):
    model = MODELS[name]()
    x, index = graph(kind)
    expected = outputs(model, x, index)
    given = with_features(layout, x)
    for _ in range(2):  # the second time from what was remembered
        with fast_path(model):
            assert_same(outputs(model, given, index), expected)
    assert "gather-scatter" not in path_of(model)
    assert ("sparse features" in path_of(model)) == (layout != "dense")
    # Control: another graph gives another result, so nothing stale was read and the graph matters.
    if kind != "empty":
        with fast_path(model):
            other = outputs(model, given, index[:, : index.size(1) // 2])
        assert_same(other, outputs(model, x, index[:, : index.size(1) // 2]))
        assert not torch.allclose(other[0], expected[0], atol=1e-3)


@pytest.mark.parametrize("name", WEIGHTED)
def test_edge_weights_and_their_gradients(name):
    model = MODELS[name]().double()
    x, index = graph("directed", torch.float64)
    weight = torch.rand(index.size(1), dtype=torch.float64) + 0.5
    expected, other = (outputs(model, x, index, w) for w in (weight, weight + 1))
    with fast_path(model):
        assert_same(outputs(model, x, index, weight), expected)
        assert_same(outputs(model, x, index, weight + 1), other)
    mine, plain = (weight.clone().requires_grad_() for _ in range(2))
    with fast_path(model):
        for _ in range(2):
            mine.grad = None
            model(x, index, mine).pow(2).sum().backward()
    model(x, index, plain).pow(2).sum().backward()
    torch.testing.assert_close(mine.grad, plain.grad)
    assert plain.grad.abs().max() > 0
    assert "gather-scatter" not in path_of(model)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("name", ["gcn", "sage", "gin", "sgc", "appnp", "graphconv", "tag"])
def test_scaled_messages_fold_into_the_adjacency(name, learned, nested):
    model = MODELS[name]().double()
    x, index = graph("undirected", torch.float64)
    named = index.unique(dim=1)[:, ::2]
    scale = (torch.rand(named.size(1), dtype=torch.float64) + 0.1).requires_grad_(learned)

    def run():
        with scaled_messages(model, named, scale):
            if not nested:
                return outputs(model, x, index)
            with scaled_messages(model, named[:, :5], torch.full((5,), 0.5, dtype=torch.float64)):
                return outputs(model, x, index)

    def gradient():
        found = None if scale.grad is None else scale.grad.clone()
        scale.grad = None
        return found

    unscaled = outputs(model, x, index)
    expected, expected_grad = run(), gradient()
    for _ in range(2):
        with fast_path(model):
            assert_same(run(), expected)
        found = gradient()
        assert (found is None) == (not learned)
        if learned:
            torch.testing.assert_close(found, expected_grad)
    assert "gather-scatter" not in path_of(model)
    assert not torch.allclose(unscaled[0], expected[0], atol=1e-4)  # control: scales dropped
    with fast_path(model):
        assert_same(outputs(model, x, index), unscaled)  # and gone with their block


@pytest.mark.parametrize("name", ["gcn", "sage", "gin", "sgc"])
def test_the_fast_path_may_open_inside_a_scaled_block(name):
    model, (x, index) = MODELS[name](), graph()
    named = index[:, : index.size(1) // 2].unique(dim=1)
    with scaled_messages(model, named, torch.rand(named.size(1))):
        expected = outputs(model, x, index)
        with fast_path(model):
            assert_same(outputs(model, x, index), expected)
    assert "gather-scatter" not in path_of(model)


@pytest.mark.parametrize("name", UNFUSED)
def test_anything_else_runs_as_it_is(name):
    make, reason = UNFUSED[name]
    model, (x, index) = make(), graph()
    expected = outputs(model, x, index)
    for layout in ("dense", "known"):
        with fast_path(model):
            assert_same(outputs(model, with_features(layout, x), index), expected)
        assert "gather-scatter in 2 of 2 layers" in path_of(model)
        assert reason in path_of(model)


def test_removed_edges_hooks_explainers_and_operators():
    model, (x, index) = MODELS["gcn"](), graph()
    conv = model.convs[0]
    with removed_edges(model, index[:, :30]):
        expected = outputs(model, x, index)
        with fast_path(model):
            assert_same(outputs(model, x, index), expected)
    with after_layer(model, {"convs.0": torch.tanh}):
        expected = outputs(model, x, index)
        with fast_path(model):
            assert_same(outputs(model, x, index), expected)
        assert path_of(model) == "CSR products in 2 of 2 layers"

    seen = []
    handle = conv.register_message_forward_hook(lambda module, args, out: seen.append(out.shape))
    with fast_path(model):
        model(x, index)
    handle.remove()
    assert len(seen) == 1
    assert "gather-scatter in 1 of 2" in path_of(model)

    with plain_path(), fast_path(model):
        assert_same(outputs(model, x, index), outputs(model, x, index))
    assert path_of(model) == "gather-scatter in 2 of 2 layers (GCNConv)"


@pytest.mark.parametrize("kind", ["forward", "before", "backward"])
@pytest.mark.parametrize(
    ("make", "at"),
    [
        (lambda: pyg.SAGEConv(DIM, 4), "lin_l"),
        (lambda: pyg.GINConv(nn.Sequential(nn.Linear(DIM, 4), nn.ReLU())), "nn"),
        (lambda: pyg.GINConv(nn.Sequential(nn.Linear(DIM, 4), nn.ReLU())), "nn.0"),
        (lambda: pyg.GINConv(pyg.MLP([DIM, 4, 3])), "nn"),
    ],
)
def test_a_hook_of_a_linear_map_sees_what_it_sees_without_the_fast_path(make, at, kind):
    """Messages of wide features pass behind the map where nothing looks, see `test_wide_features_...` below."""
    (x, index), found = graph(), []
    for path in (contextlib.nullcontext, fast_path):
        model, seen = make(), []
        model.load_state_dict(found[0][1] if found else model.state_dict())
        inner, given = model.get_submodule(at), x.clone().requires_grad_()
        if kind == "forward":
            inner.register_forward_hook(lambda module, args, out, seen=seen: seen.append(args[0].detach()))
        elif kind == "before":
            inner.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0].detach()))
        else:
            inner.register_full_backward_hook(lambda module, by_input, by_output, seen=seen: seen.append(by_input[0]))
        with path(model):
            model(given, index).square().sum().backward()
        found.append((seen, model.state_dict()))
    (plain, _), (fast, _) = found
    assert len(plain) == len(fast) == 1
    torch.testing.assert_close(fast[0], plain[0], rtol=1e-4, atol=1e-4)


def test_nothing_is_left_behind():
    model, (x, index) = MODELS["gin_eps"](), graph()
    before = {id(m): dict(m.__dict__) for m in model.modules()}
    keys = list(model.state_dict())
    with pytest.raises(InvalidInputError, match="ids"), fast_path(model):  # ids outside the graph
        model(x, index + NUM_NODES)
    assert {id(m): dict(m.__dict__) for m in model.modules()} == before
    assert list(model.state_dict()) == keys
    gcn = MODELS["gcn"]()
    with fast_path(gcn):
        gcn(x, index)
    assert all(conv._cached_edge_index is None for conv in gcn.convs)
    copy.deepcopy(gcn)
    dead = weakref.ref(index)
    del index
    gc.collect()
    assert dead() is None  # what was remembered for a graph goes with the graph


def test_a_cache_of_the_layers_own_is_left_alone():
    model, (x, index) = Net(pyg.GCNConv(DIM, 8, cached=True), pyg.GCNConv(8, 4, cached=True)), graph()
    expected = outputs(model, x, index)
    cache = model.first._cached_edge_index
    with fast_path(model):
        assert_same(outputs(model, x, index), expected)
    assert model.first._cached_edge_index is cache


@pytest.mark.parametrize(
    "make", [lambda: pyg.SGConv(DIM, 4, K=2, cached=True), lambda: pyg.GCNConv(DIM, 4, cached=True)]
)
def test_what_a_layer_caches_stays_its_own(make):
    first, second, (x, index) = make(), make(), graph()
    sparse_features(x)
    other = graph("directed")[1]
    with fast_path(first):
        on_other = first(x, other)
        torch.testing.assert_close(first(x, index), on_other)  # the cache: PyG's own doing
    torch.testing.assert_close(first(x, index), on_other)  # outside as well, on tensors
    expected = copy.deepcopy(second)(x, index)
    with fast_path(second):  # the first one's graph was not remembered for this one
        torch.testing.assert_close(second(x, index), expected, rtol=1e-5, atol=1e-5)


def test_edge_dropout_is_drawn_anew_at_each_step():
    model, (x, index) = Diffused(pyg.APPNP(K=3, alpha=0.1, dropout=0.5)), graph()
    results = []
    for path in (fast_path, None, fast_path):
        torch.manual_seed(7)
        if path is None:
            results.append(model(x, index))
        else:
            with path(model):
                results.append(model(x, index))
                second = model(x, index)
            assert not torch.allclose(results[-1], second)
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[0], results[2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    model, (x, index) = MODELS["gcn"]().to(dtype), graph(dtype=dtype)
    expected = model(x, index)
    with fast_path(model):
        out = model(x, index)
    assert out.dtype == dtype
    torch.testing.assert_close(out, expected)
    assert ("precision" in path_of(model)) == (dtype == torch.bfloat16)


def test_second_order_equals_the_plain_path():
    model, (x, index) = MODELS["sage"]().double(), graph(dtype=torch.float64)
    weight = model.convs[0].lin_l.weight

    def curvature():
        (grad,) = torch.autograd.grad(model(x, index).pow(3).sum(), weight, create_graph=True)
        return torch.autograd.grad(grad.pow(2).sum(), weight)[0]

    expected = curvature()
    with fast_path(model):
        torch.testing.assert_close(curvature(), expected)
    assert expected.abs().max() > 0


def test_function_transforms_take_the_plain_path():
    model, (x, index) = MODELS["gcn"](), graph()

    def f(parameters):
        return torch.func.functional_call(model, parameters, (x, index)).pow(2).sum()

    parameters = dict(model.named_parameters())
    expected = torch.func.grad(f)(parameters)
    with fast_path(model):
        found = torch.func.grad(f)(parameters)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def encoded(model, x, index):
    return LinkPrediction().encode(model, Data(x=x, edge_index=index, num_nodes=NUM_NODES))


class DropsFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = pyg.GCNConv(DIM, 4)

    def forward(self, x, edge_index):
        return self.conv(torch.dropout(x, 0.5, self.training), edge_index)


@pytest.mark.parametrize("make", [UNFUSED["sage_max"][0], lambda: MODELS["sage"]().to(torch.float16), DropsFirst])
def test_csr_features_that_a_model_or_layer_cannot_take_are_named(make):
    model, (x, index) = make(), graph()
    with pytest.raises(UnsupportedModelError, match=r"to_dense"):
        encoded(model, x.to_sparse_csr().to(next(model.parameters()).dtype), index)


@pytest.mark.parametrize("name", ["gcn", "gin_eps", "appnp"])
def test_the_task_takes_the_fast_path_by_itself(name):
    model, (x, index) = MODELS[name](), graph()
    expected = model(x, index)
    for given in (x.clone(), x.to_sparse_csr()):
        torch.testing.assert_close(encoded(model, given, index), expected, rtol=1e-5, atol=1e-5)
        assert "CSR products" in path_of(model)
        assert "sparse features" in path_of(model)
    with plain_path():
        encoded(model, x, index)
    assert "CSR" not in path_of(model)


@pytest.mark.parametrize(
    ("make", "widths"),
    [
        (lambda: pyg.GraphSAGE(DIM, 8, 2, 4), {8, 4}),
        (lambda: pyg.GIN(DIM, 8, 2, 4), {8, 4}),
        (lambda: pyg.SGConv(DIM, 4, K=3), {4}),
        (lambda: pyg.GraphSAGE(8, 16, 2, 16), {8, 16}),  # a map that widens stays behind the product
        (lambda: Net(pyg.TAGConv(DIM, 8), pyg.TAGConv(8, 4, K=1)), {DIM, 8}),  # each number of hops has its own map
        (lambda: pyg.SGConv(DIM, 4, K=3, cached=True), {DIM}),  # what a layer caches is not multiplied by weights
    ],
)
def test_wide_features_pass_messages_behind_the_map_that_narrows_them(make, widths, monkeypatch):
    model, seen, product = make(), set(), sparse.multiply

    def multiply(matrix, x, *more):
        seen.add(x.size(1))
        return product(matrix, x, *more)

    monkeypatch.setattr(sparse, "multiply", multiply)
    _, index = graph("directed")
    x = torch.randn(NUM_NODES, 8 if 16 in widths else DIM)
    with fast_path(model):
        found = outputs(model, x, index)
    assert seen == widths
    assert "sparse features" not in path_of(model)
    assert_same(found, outputs(make_alike(make, model), x, index))


def make_alike(make, model):
    """The same weights in a new model, which has cached nothing."""
    other = make()
    other.load_state_dict(model.state_dict())
    return other
