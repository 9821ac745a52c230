"""`scaled_messages` equals dense float64 formulas with each message times its scale."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch_geometric.nn import APPNP, GATConv, GATv2Conv, GCNConv, GINConv, GraphConv, SAGEConv, SGConv, TransformerConv

from gunlearn.errors import InvalidInputError, UnsupportedModelError
from gunlearn.nn.attach.contexts import removed_edges, scaled_messages
from gunlearn.nn.kernels.fast import fast_path
from tests.nn.test_attach_cases import (
    CASES,
    DIM,
    EDGE_INDEX,
    NUM_NODES,
    SCALE,
    SIMPLE,
    Net,
    assert_same,
    build,
    gradients,
    nothing_left,
    other_graph,
)

DOUBLE = torch.float64


def dense(edge_index, value):
    """Adjacency with targets in rows; copies of an edge add up."""
    adjacency = torch.zeros(NUM_NODES, NUM_NODES, dtype=DOUBLE)
    for u, v, weight in zip(*edge_index.tolist(), value, strict=True):
        adjacency[v, u] = adjacency[v, u] + weight
    return adjacency


def scale_matrix(edge_index, scale):
    """Scale of each pair (the mean of its copies), 1 where none is named."""
    target_source = (edge_index[1], edge_index[0])
    count = torch.zeros(NUM_NODES, NUM_NODES).index_put(target_source, torch.ones(edge_index.size(1)), accumulate=True)
    total = torch.zeros(NUM_NODES, NUM_NODES, dtype=DOUBLE).index_put(target_source, scale, accumulate=True)
    return torch.where(count > 0, total / count.clamp(min=1), 1.0)


def gcn_matrix(scale, loops=True):
    """Normalised adjacency (Kipf & Welling, eq. 2) times the scales, after normalisation."""
    adjacency = dense(EDGE_INDEX, torch.ones(EDGE_INDEX.size(1), dtype=DOUBLE))
    if loops:  # only where there is none yet
        adjacency = adjacency + torch.diag((adjacency.diagonal() == 0).double())
    norm = adjacency.sum(1).clamp(min=1e-30).rsqrt() * (adjacency.sum(1) > 0)
    return norm.view(-1, 1) * adjacency * norm * scale_matrix(EDGE_INDEX, scale)


def mean_matrix(scale):
    adjacency = dense(EDGE_INDEX, torch.ones(EDGE_INDEX.size(1), dtype=DOUBLE))
    return adjacency / adjacency.sum(1, keepdim=True).clamp(min=1) * scale_matrix(EDGE_INDEX, scale)


def sum_matrix(scale):
    return dense(EDGE_INDEX, torch.ones(EDGE_INDEX.size(1), dtype=DOUBLE)) * scale_matrix(EDGE_INDEX, scale)


def appnp(conv, x, scale):
    h = x
    for _ in range(conv.K):
        h = (1 - conv.alpha) * gcn_matrix(scale) @ h + conv.alpha * x
    return h


# The layer on the left, its formula with dense matrices on the right.
FORMULAS = {
    "gcn": (GCNConv(DIM, 3), lambda c, x, s: gcn_matrix(s) @ c.lin(x) + c.bias),
    "gcn-no-loops": (
        GCNConv(DIM, 3, add_self_loops=False),
        lambda c, x, s: gcn_matrix(s, loops=False) @ c.lin(x) + c.bias,
    ),
    "gcn-cached": (GCNConv(DIM, 3, cached=True), lambda c, x, s: gcn_matrix(s) @ c.lin(x) + c.bias),
    "sage-mean": (SAGEConv(DIM, 3), lambda c, x, s: c.lin_l(mean_matrix(s) @ x) + c.lin_r(x)),
    "gin": (
        GINConv(torch.nn.Linear(DIM, 3), eps=0.3, train_eps=True),
        lambda c, x, s: c.nn(sum_matrix(s) @ x + (1 + c.eps) * x),
    ),
    "graph": (GraphConv(DIM, 3), lambda c, x, s: c.lin_rel(sum_matrix(s) @ x) + c.lin_root(x)),
    "graph-mean": (GraphConv(DIM, 3, aggr="mean"), lambda c, x, s: c.lin_rel(mean_matrix(s) @ x) + c.lin_root(x)),
    "appnp": (APPNP(K=3, alpha=0.2), appnp),
    "sg": (SGConv(DIM, 3, K=2, cached=True), lambda c, x, s: c.lin(gcn_matrix(s) @ gcn_matrix(s) @ x)),
    "decomposed": (GCNConv(DIM, 4, decomposed_layers=2), lambda c, x, s: gcn_matrix(s) @ c.lin(x) + c.bias),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_equals_the_dense_formula(name):
    conv, formula = copy.deepcopy(FORMULAS[name])
    conv = conv.double()
    torch.manual_seed(0)
    x = torch.randn(NUM_NODES, DIM, dtype=DOUBLE, requires_grad=True)
    scale = SCALE.clone().requires_grad_()
    conv(x, EDGE_INDEX)  # fills caches
    want = formula(conv, x, scale)
    inputs = [x, scale, *conv.parameters()]
    wanted = torch.autograd.grad(want.square().sum(), inputs)
    with nothing_left(conv), scaled_messages(conv, EDGE_INDEX, scale):
        for _ in range(2):  # a cache of what came before, or a freed graph, fails the second time
            out = conv(x, EDGE_INDEX)
            got = torch.autograd.grad(out.square().sum(), inputs)
            assert torch.allclose(out, want, rtol=0, atol=1e-12)
            for one, other in zip(got, wanted, strict=True):
                assert torch.allclose(one, other, rtol=0, atol=1e-10)
    assert not torch.allclose(conv(x, EDGE_INDEX), want), "control: no scale must fail"
    with removed_edges(conv, EDGE_INDEX):
        deleted = conv(x, EDGE_INDEX)
    with scaled_messages(conv, EDGE_INDEX, torch.zeros_like(SCALE)):
        silent = conv(x, EDGE_INDEX)
    assert torch.allclose(silent, formula(conv, x, torch.zeros_like(SCALE)), rtol=0, atol=1e-12)
    if "gcn" in name and "no-loops" not in name:  # a GCN keeps degrees: its own loop weighs 1/deg, not 1
        assert not torch.allclose(silent, deleted)


ATTENTION = {
    "gat": (GATConv, lambda c, x: c.lin(x).view(-1, 2, 3), {}),
    "gat-no-loops": (GATConv, lambda c, x: c.lin(x).view(-1, 2, 3), {"add_self_loops": False}),
    "gatv2": (GATv2Conv, lambda c, x: c.lin_l(x).view(-1, 2, 3), {}),
    "transformer": (TransformerConv, lambda c, x: c.lin_value(x).view(-1, 2, 3), {}),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_keeps_its_softmax(name):
    """Messages by brute force: the layer's own attention (unscaled) times value times scale, heads side by side."""
    make, value_of, options = ATTENTION[name]
    torch.manual_seed(0)
    conv = make(DIM, 3, heads=2, **options).double()
    x = torch.randn(NUM_NODES, DIM, dtype=DOUBLE)
    _, (edges, alpha) = conv(x, EDGE_INDEX, return_attention_weights=True)
    per_pair = {
        pair: s for *pair, s in zip(*EDGE_INDEX.tolist(), SCALE.tolist(), strict=True) for pair in [tuple(pair)]
    }
    want = torch.zeros(NUM_NODES, 2, 3, dtype=DOUBLE)
    for e, (u, v) in enumerate(edges.t().tolist()):
        want[v] += per_pair.get((u, v), 1.0) * alpha[e].view(2, 1) * value_of(conv, x)[u]
    want = want.view(NUM_NODES, 6) + (conv.lin_skip(x) if name == "transformer" else conv.bias)
    with nothing_left(conv), scaled_messages(conv, EDGE_INDEX, SCALE):
        assert torch.allclose(conv(x, EDGE_INDEX), want, rtol=0, atol=1e-12)
        _, (_, inside) = conv(x, EDGE_INDEX, return_attention_weights=True)
        assert torch.equal(inside, alpha)
    assert not torch.allclose(conv(x, EDGE_INDEX), want)


@pytest.mark.parametrize("case", CASES)
def test_ones_are_nothing_and_halves_are_something(case):
    model, x, extra = build(case)
    plain = model(x, EDGE_INDEX, **extra)
    want = [plain, *gradients(model, plain)]
    with nothing_left(model), scaled_messages(model, EDGE_INDEX, torch.ones_like(SCALE)):
        out = model(x, EDGE_INDEX, **extra)
        assert_same([out, *gradients(model, out)], want)
    half = torch.full_like(SCALE, 0.5, requires_grad=True)
    with nothing_left(model), scaled_messages(model, EDGE_INDEX, half):
        out = model(x, EDGE_INDEX, **extra)
        (slope,) = torch.autograd.grad(out.square().sum(), half)
    assert not torch.allclose(out, plain)
    assert torch.isfinite(slope).all()
    assert slope.abs().max() > 0


@pytest.mark.parametrize("case", ["gcn", "sage-max", "gat-edge-attr", "transformer", "appnp", "user", "rgcn"])
def test_gradient_in_scale_first_and_second_order(case):
    model, x, extra = build(case)
    simple = EDGE_INDEX[:, 1:]  # every pair once
    extra = {name: value[1:] for name, value in extra.items()}

    def run(scale):
        with scaled_messages(model, simple, scale):
            return model(x, simple, **extra)

    scale = SCALE[1:].clone().requires_grad_()
    assert torch.autograd.gradcheck(run, scale, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, scale, fast_mode=True)


def test_edges_are_matched_by_id_in_any_order_and_subset():
    model, x, extra = build("user")
    order = torch.randperm(EDGE_INDEX.size(1))
    with scaled_messages(model, EDGE_INDEX, SCALE):
        want = model(x, EDGE_INDEX, **extra)
        shuffled = model(x, EDGE_INDEX[:, order], **{name: value[order] for name, value in extra.items()})
        part = model(x, EDGE_INDEX[:, :5], **{name: value[:5] for name, value in extra.items()})
    assert torch.allclose(shuffled, want, rtol=0, atol=1e-12)
    with scaled_messages(model, EDGE_INDEX[:, :5], SCALE[:5]):
        assert torch.allclose(part, model(x, EDGE_INDEX[:, :5], **{n: v[:5] for n, v in extra.items()}), atol=1e-12)
        assert not torch.allclose(want, model(x, EDGE_INDEX, **extra))


@pytest.mark.parametrize("case", ["sage", "native"])
@pytest.mark.parametrize("around", [nullcontext, fast_path])
def test_an_edit_of_edge_index_or_scale_in_place_is_seen(case, around):
    model, x, _ = build(case)
    graph, scale = EDGE_INDEX.clone(), SCALE.clone()
    with around(model), scaled_messages(model, EDGE_INDEX, scale):
        before = model(x, graph)
        scale[1] = 0.0
        middle = model(x, graph)
        graph[1, 4] = 6
        out = model(x, graph)
    assert not torch.allclose(before, middle)
    with scaled_messages(model, EDGE_INDEX, scale.clone()):
        assert torch.allclose(out, model(x, graph.clone()), rtol=0, atol=1e-12)


def test_only_the_layers_named():
    model, x, _ = build("gcn")
    with scaled_messages(model, EDGE_INDEX, SCALE, layers=["convs.0"]):
        out = model(x, EDGE_INDEX)
    with scaled_messages(model.convs[0], EDGE_INDEX, SCALE):
        hidden = model.convs[0](x, EDGE_INDEX)
    assert torch.equal(out, model.convs[1](hidden.tanh(), EDGE_INDEX))


@pytest.mark.filterwarnings("ignore:Converting sparse tensor to CSR format:UserWarning")  # PyG's, of the layout "coo"
@pytest.mark.parametrize("layout", ["csr", "coo", "sorted_edge_index"])
@pytest.mark.parametrize("conv", [GCNConv, SAGEConv, GraphConv, GATConv, TransformerConv])
def test_other_kinds_of_graph(conv, layout):
    """Fused kernels never call `message`: an unconverted adjacency fails here."""
    model, x, scale = Net(lambda i, o: conv(i, o)), torch.randn(NUM_NODES, DIM), torch.rand(SIMPLE.size(1))
    graph = other_graph(layout, SIMPLE, torch.float32)
    with nothing_left(model), scaled_messages(model, SIMPLE, scale):
        assert torch.allclose(model(x, graph), model(x, SIMPLE), atol=1e-5)
    assert not torch.allclose(model(x, graph), _scaled(model, x, SIMPLE, scale), atol=1e-3)


def _scaled(model, x, edge_index, scale):
    with scaled_messages(model, edge_index, scale):
        return model(x, edge_index)


def test_weights_inside_an_adjacency():
    weight, scale, x = torch.rand(SIMPLE.size(1)), torch.rand(SIMPLE.size(1)), torch.randn(NUM_NODES, DIM)
    adj_t = other_graph("csr", SIMPLE, torch.float32, weight)
    graph, sage = GraphConv(DIM, DIM), SAGEConv(DIM, DIM)
    with scaled_messages(graph, SIMPLE, scale):
        assert torch.allclose(graph(x, adj_t), graph(x, SIMPLE, weight), atol=1e-5)
    # SAGE's fused kernel multiplies by the values, its messages do not: no silent choice between the two.
    with scaled_messages(sage, SIMPLE, scale), pytest.raises(UnsupportedModelError, match="ones"):
        sage(x, adj_t)


def test_explain_set_before_works_and_set_inside_is_refused():
    model, x, _ = build("gcn")
    want = _scaled(model, x, EDGE_INDEX, SCALE)
    for conv in model.convs:
        conv.explain = True
        conv._edge_mask, conv._apply_sigmoid = torch.ones(EDGE_INDEX.size(1) + 7, dtype=DOUBLE), False
    with nothing_left(model):
        assert torch.allclose(_scaled(model, x, EDGE_INDEX, SCALE), want)
    model = build("gcn")[0]
    with scaled_messages(model, EDGE_INDEX, SCALE):
        model.convs[0].explain = True
        with pytest.raises(UnsupportedModelError, match="explain"):
            model(x, EDGE_INDEX)


NAN = float("nan")
BAD = {
    "length": (EDGE_INDEX, SCALE[1:], r"\[14\].*\[13\]"),
    "shape": (EDGE_INDEX, SCALE.view(-1, 1), r"\[14, 1\]"),
    "integer": (EDGE_INDEX, SCALE.long(), "int64"),
    "list": (EDGE_INDEX, SCALE.tolist(), "list"),
    "negative": (EDGE_INDEX, SCALE - 1, "-0.9"),
    "nan": (EDGE_INDEX, SCALE * NAN, "nan"),
    "infinite": (EDGE_INDEX, SCALE / 0, "inf"),
    "copies that differ": (EDGE_INDEX, torch.arange(14.0), "differ by 2"),
    "float edge_index": (EDGE_INDEX.float(), SCALE, "float32"),
    "negative id": (-EDGE_INDEX, SCALE, "-7"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    edge_index, scale, match = BAD[name]
    model = build("gcn")[0]
    error = pytest.raises(InvalidInputError, match=match)
    with nothing_left(model), error, scaled_messages(model, edge_index, scale):
        pass


def test_range_and_strict():
    model, x, _ = build("gcn")
    with pytest.raises(InvalidInputError, match=r"\[0, 7\)"), scaled_messages(model, EDGE_INDEX, SCALE, num_nodes=7):
        pass
    with nothing_left(model), scaled_messages(model, EDGE_INDEX, SCALE, strict=True):
        model(x, EDGE_INDEX)
        with pytest.raises(InvalidInputError, match="strict"):
            model(x, EDGE_INDEX[:, :3])
