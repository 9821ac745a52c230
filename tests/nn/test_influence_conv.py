"""The native layer against PyG's GCNConv, dense float64 formulas, and the attached scales."""

import copy
import pickle
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch_geometric.explain.algorithm.utils import clear_masks, set_masks
from torch_geometric.nn import GCNConv

from gunlearn.errors import GunlearnError, InvalidInputError
from gunlearn.nn.attach.contexts import after_layer, removed_edges, scaled_messages
from gunlearn.nn.layers.influence_conv import InfluenceAwareConv, MessageScale, influence_scale
from tests.nn.test_fast import Net

NUM_NODES = 12
DTYPES = [torch.float32, torch.float64]


def graph(kind, num_nodes=NUM_NODES, seed=0):
    """Random graphs; nodes 10 and 11 are isolated except in "loops"."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(num_nodes - 2, (2, 30), generator=generator)
    index = index[:, index[0] != index[1]].unique(dim=1)
    if kind == "undirected":
        return torch.cat([index, index.flip(0)], dim=1).unique(dim=1)
    if kind == "duplicates":
        return torch.cat([index, index[:, :7], index[:, :3]], dim=1)
    if kind == "loops":  # of an isolated node, of another one, and one of them twice
        return torch.cat([index, torch.tensor([[3, 11, 11], [3, 11, 11]])], dim=1)
    if kind == "empty":
        return index[:, :0]
    return index  # directed


KINDS = ["directed", "undirected", "duplicates", "loops", "empty"]


def layers(dtype, seed=0, bias=True):
    """The native layer and PyG's, with the same weights."""
    torch.manual_seed(seed)
    mine, theirs = InfluenceAwareConv(5, 4, bias=bias).to(dtype), GCNConv(5, 4, bias=bias).to(dtype)
    if bias:
        nn.init.normal_(mine.bias)
    assert mine.state_dict().keys() == theirs.state_dict().keys()
    theirs.load_state_dict(mine.state_dict())
    return mine, theirs


def outcome(conv, x, *args, power=2):
    """Output, and gradients with respect to x and all parameters of a loss that tells rows and columns apart."""
    x = x.clone().requires_grad_()
    out = conv(x, *args)
    probe = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)
    grads = torch.autograd.grad((out.pow(power) * probe).sum(), [x, *conv.parameters()])
    return out.detach(), *grads


def assert_same(found, expected, tolerance=1e-6):
    for a, b in zip(found, expected, strict=True):
        scale = max(1.0, float(b.detach().abs().max()))
        torch.testing.assert_close(a, b.to(a.dtype), rtol=0, atol=tolerance * scale)


def nets(dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    native = Net(InfluenceAwareConv(5, 6), InfluenceAwareConv(6, 3)).to(dtype)
    plain = Net(GCNConv(5, 6), GCNConv(6, 3)).to(dtype)
    plain.load_state_dict(native.state_dict())
    return native, plain


def features(dtype=torch.float64, seed=1):
    return torch.randn(NUM_NODES, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# Against GCNConv #############################################################


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_gcn_conv(kind, dtype, weighted):
    mine, theirs = layers(dtype)
    x, edge_index = features(dtype), graph(kind)
    weight = torch.rand(edge_index.size(1), dtype=dtype) + 0.1 if weighted else None
    assert_same(outcome(mine, x, edge_index, weight), outcome(theirs, x, edge_index, weight))
    if edge_index.numel():  # control: the direction of messages matters here
        flipped = outcome(mine, x, edge_index.flip(0), weight)[0]
        assert kind == "undirected" or not torch.allclose(flipped, mine(x, edge_index, weight), atol=1e-3)


def test_weights_with_zeros_and_without_bias():
    mine, theirs = layers(torch.float64, bias=False)
    edge_index = graph("loops")
    weight = torch.rand(edge_index.size(1), dtype=torch.float64)
    weight[:5] = 0
    assert_same(outcome(mine, features(), edge_index, weight), outcome(theirs, features(), edge_index, weight), 1e-12)
    assert "bias" not in mine.state_dict()


def test_learned_edge_weights_get_their_gradient():
    edge_index, x = graph("duplicates"), features()
    weight = torch.linspace(0.5, 2, edge_index.size(1), dtype=torch.float64, requires_grad=True)
    mine, theirs = (
        torch.autograd.grad(conv(x, edge_index, weight * 1.5).pow(2).sum(), weight) for conv in layers(torch.float64)
    )
    assert theirs[0].abs().max() > 0
    assert_same(mine, theirs, 1e-12)


def test_edge_weights_of_another_precision():
    mine, theirs = layers(torch.float32)
    edge_index, x = graph("directed"), features(torch.float32)
    weight = torch.rand(edge_index.size(1), dtype=torch.float64)  # what numpy and pandas give
    out = mine(x, edge_index, weight)
    assert out.dtype == torch.float32
    assert_same([out], [theirs(x, edge_index, weight)], 1e-5)


def test_second_order_equals_gcn_conv():
    def curvature(conv):
        weight, out = conv.lin.weight, conv(features(), graph("directed"))
        (grad,) = torch.autograd.grad(out.pow(3).sum(), weight, create_graph=True)
        return torch.autograd.grad(grad.pow(2).sum(), weight)

    assert_same(*map(curvature, layers(torch.float64)), 1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scaled", [False, True])
def test_plain_path_equals_csr_path(kind, scaled):
    conv, x, edge_index = layers(torch.float64)[0], features(), graph(kind)
    explicit, seen = copy.deepcopy(conv), []
    explicit.register_message_forward_hook(lambda module, inputs, output: seen.append(output))
    scale = influence_scale(torch.linspace(-0.5, 1, NUM_NODES, dtype=torch.float64), edge_index)  # of copies the same
    found = []
    for module in (conv, explicit):
        with MessageScale(module, edge_index, scale) if scaled else nullcontext():
            found.append(outcome(module, x, edge_index))
    assert_same(*found, 1e-12)
    assert seen, "the explicit path did not send messages"


def test_explainers_reach_the_messages():
    mine, theirs = layers(torch.float64)
    x, edge_index = features(), graph("undirected")
    before = mine(x, edge_index)
    found = []
    for conv in (mine, theirs):
        mask = nn.Parameter(torch.linspace(0, 1, edge_index.size(1), dtype=torch.float64))
        set_masks(conv, mask, edge_index, apply_sigmoid=False)
        out = conv(x, edge_index)
        found.append([out.detach(), torch.autograd.grad(out.pow(2).sum(), mask)[0]])
        clear_masks(conv)
    assert_same(*found, 1e-12)
    assert not torch.allclose(found[0][0], before, atol=1e-3)
    assert_same([mine(x, edge_index)], [before], 1e-12)


def test_hooks_on_messages_are_not_ignored():
    conv, x, edge_index = layers(torch.float64)[0], features(), graph("directed")
    before = conv(x, edge_index)
    handle = conv.register_message_forward_hook(lambda module, inputs, output: 2 * output)
    assert_same([conv(x, edge_index) - conv.bias], [2 * (before - conv.bias)], 1e-12)
    handle.remove()
    handle = conv.register_propagate_forward_pre_hook(
        lambda module, inputs: (*inputs[:-1], inputs[-1] | {"edge_weight": 3 * inputs[-1]["edge_weight"]})
    )
    assert_same([conv(x, edge_index) - conv.bias], [3 * (before - conv.bias)], 1e-12)
    handle.remove()
    assert torch.equal(conv(x, edge_index), before)


@pytest.mark.slow
def test_compiled_layer():
    mine, theirs = layers(torch.float64)
    compiled = torch.compile(mine, backend="aot_eager")
    assert_same([compiled(features(), graph("directed"))], [theirs(features(), graph("directed"))], 1e-12)


def test_follows_edits_of_the_graph_and_survives_inference_mode():
    mine, theirs = layers(torch.float64)
    x, edge_index = features(), graph("directed")
    with torch.inference_mode():
        mine(x, edge_index)
    assert_same(outcome(mine, x, edge_index), outcome(theirs, x, edge_index), 1e-12)  # trains on what inference kept
    edge_index[:, 0] = torch.tensor([10, 11])
    assert_same([mine(x, edge_index)], [theirs(x, edge_index)], 1e-12)
    # The same tensor with another number of nodes, then in another precision.
    more = torch.cat([x, x[:3]])
    assert_same([mine(more, edge_index)], [theirs(more, edge_index)], 1e-12)
    assert_same([mine.float()(x.float(), edge_index)], [theirs.float()(x.float(), edge_index)])


def test_refusals():
    conv = layers(torch.float64)[0]
    with pytest.raises(InvalidInputError, match="sparse adjacency"):
        conv(features(), torch.eye(NUM_NODES).to_sparse_csr())
    with pytest.raises((GunlearnError, IndexError, RuntimeError)):  # never a silent read outside
        conv(features(), torch.tensor([[0, NUM_NODES], [1, 2]]))


def test_state_and_copies():
    conv, x, edge_index = layers(torch.float64)[0], features(), graph("directed")
    out = conv(x, edge_index)
    assert list(conv.state_dict()) == ["bias", "lin.weight"]
    for other in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        assert torch.equal(other(x, edge_index), out)
        with torch.no_grad():
            other.bias.add_(1)
        assert torch.equal(conv(x, edge_index), out)
    torch.manual_seed(5)
    conv.reset_parameters()
    assert not torch.equal(conv.lin.weight, other.lin.weight)
    assert conv.bias.abs().max() == 0
    bound = (1 / 5) ** 0.5  # kaiming-uniform with a=sqrt(5), the start of the official code
    assert conv.lin.weight.abs().max() <= bound
    assert repr(conv) == "InfluenceAwareConv(5, 4)"


# Scales ######################################################################


def dense_layer(conv, x, edge_index, influence=None, chosen=None):
    """`D^-1/2 (A + I) D^-1/2`, entries (v, u) of chosen (u, v) times exp(-(s_u + s_v)), in float64 and python loops."""
    n = x.size(0)
    adjacency = torch.eye(n, dtype=torch.float64)
    for u, v in edge_index.t().tolist():
        adjacency[v, u] += 1
    degree = adjacency.sum(1)
    for v in range(n):
        for u in range(n):
            adjacency[v, u] /= (degree[u] * degree[v]).sqrt()
            if chosen is not None and (u, v) in chosen:
                adjacency[v, u] *= torch.exp(-(influence[u] + influence[v]))
    return adjacency @ x.double() @ conv.lin.weight.double().t() + conv.bias.double()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["directed", "undirected", "empty"])
@pytest.mark.parametrize("which", ["all", "some", "some and self-loops", "none"])
def test_scales_equal_the_dense_formula(dtype, kind, which):
    conv, x, edge_index = layers(dtype)[0], features(dtype), graph(kind)
    influence = torch.linspace(0, 1, NUM_NODES, dtype=dtype)
    named = {"all": edge_index, "none": edge_index[:, :0]}.get(which, edge_index[:, ::2])
    if which.endswith("loops"):
        named = torch.cat([named, torch.arange(0, NUM_NODES, 2).repeat(2, 1)], dim=1)
    named = named[:, torch.randperm(named.size(1), generator=torch.Generator().manual_seed(2))]  # by id, not position
    chosen = {*map(tuple, named.t().tolist())}
    with MessageScale(conv, named, influence_scale(influence, named)):
        out = conv(x, edge_index)
    expected = dense_layer(conv, x, edge_index, influence, chosen)
    assert_same([out], [expected], 1e-6)
    if chosen:  # controls: no scale, the sign flipped
        assert not torch.allclose(dense_layer(conv, x, edge_index), expected, atol=1e-3)
        assert not torch.allclose(dense_layer(conv, x, edge_index, -influence, chosen), expected, atol=1e-3)


def test_edges_are_chosen_as_pairs_not_by_their_end_points():
    # The official code tests rows and columns apart, so that (0, 3) is damped because (0, 1) and (2, 3) are.
    conv, x = layers(torch.float64)[0], features()
    edge_index = torch.tensor([[0, 2, 0, 1], [1, 3, 3, 0]])
    with MessageScale(conv, edge_index[:, :2], torch.tensor([0.1, 0.2], dtype=torch.float64)):
        out = conv(x, edge_index)
    before = dense_layer(conv, x, edge_index)
    influence = torch.zeros(NUM_NODES, dtype=torch.float64)
    assert torch.allclose(out[0], before[0])  # (1, 0) is the reverse of a chosen edge, not chosen itself
    assert not torch.allclose(out[1], before[1])
    expected = dense_layer(conv, x, edge_index, influence, {(2, 3)})
    contribution = (1 / (3 * 1) ** 0.5) * x[2] @ conv.lin.weight.t()
    assert torch.allclose(out[3], expected[3] - 0.8 * contribution)  # of (2, 3) alone; (0, 3) keeps its message


@pytest.mark.parametrize("kind", KINDS)
def test_native_scales_equal_attached_ones(kind):
    native, plain = nets()
    x, edge_index = features(), graph(kind)
    named = torch.cat([edge_index[:, ::2], torch.tensor([[4, 10], [4, 10]])], dim=1).unique(dim=1)
    scale = torch.linspace(0.1, 2, named.size(1), dtype=torch.float64)
    with MessageScale(native, named, scale):
        mine = outcome(native, x, edge_index)
        assert native.first.ran == "csr"
    with scaled_messages(plain, named, scale):
        theirs = outcome(plain, x, edge_index)
    assert_same(mine, theirs, 1e-12)
    assert not torch.allclose(mine[0], native(x, edge_index), atol=1e-3)


def test_removed_edges_and_operators_reach_the_native_layer():
    native, plain = nets()
    x, edge_index = features(), graph("undirected")
    kept = edge_index[:, 4:]
    native(x, edge_index)  # the adjacency of the whole graph is kept from here on
    with removed_edges(native, edge_index[:, :4]):
        found = outcome(native, x, edge_index)
    assert_same(found, outcome(plain, x, kept), 1e-12)
    with after_layer(native, torch.neg), after_layer(plain, torch.neg):
        assert_same(outcome(native, x, edge_index), outcome(plain, x, edge_index), 1e-12)
    assert_same(outcome(native, x, edge_index), outcome(plain, x, edge_index), 1e-12)


def test_entered_again_and_nested():
    native, plain = nets()
    x, edge_index = features(), graph("undirected")
    num_edges = edge_index.size(1)
    one = torch.linspace(0.1, 1, num_edges, dtype=torch.float64)
    two = torch.linspace(1.5, 0.5, num_edges // 2, dtype=torch.float64)

    def results(model):
        outer, inner = MessageScale(model, edge_index, one), MessageScale(model, edge_index[:, ::2][:, : len(two)], two)
        yield model(x, edge_index)
        with outer:
            yield model(x, edge_index)
            with inner:
                yield model(x, edge_index)
                with outer:  # itself inside itself
                    yield model(x, edge_index)
                yield model(x, edge_index)
            yield model(x, edge_index)
        with inner, outer:
            yield model(x, edge_index)
        yield model(x, edge_index)

    found = list(results(native))
    assert_same(found, results(plain), 1e-12)  # scales of nested blocks multiply, in both
    nothing, outer, both, squared, both_again, outer_again, swapped, last = found
    for a, b in ((nothing, last), (outer, outer_again), (both, both_again)):
        assert torch.equal(a, b)
    assert torch.allclose(both, swapped, atol=1e-12)
    for a, b in ((nothing, outer), (outer, both), (both, squared)):
        assert not torch.allclose(a, b, atol=1e-3)


def test_adjacency_is_kept_between_entries_and_follows_the_graph():
    native, plain = nets()
    x, edge_index = features(), graph("undirected")
    named = edge_index.clone()
    scale = torch.linspace(0.1, 1, edge_index.size(1), dtype=torch.float64)
    context = MessageScale(native, named, scale)
    for _ in range(2):
        with context:
            native(x, edge_index)
    kept = context._folded[edge_index][1]
    assert len(kept) == 1  # one matrix serves both layers and both entries
    edge_index[:, 0] = edge_index[:, 1]  # now a repeated edge
    with context, scaled_messages(plain, named, scale):
        assert_same([native(x, edge_index)], [plain(x, edge_index)], 1e-12)
    # Another scale on the very same graph must not meet the first one's matrix.
    with MessageScale(native, named, scale / 2), scaled_messages(plain, named, scale / 2):
        assert_same([native(x, edge_index)], [plain(x, edge_index)], 1e-12)


def test_names_outside_the_graph_have_no_effect():
    # With keys u * N + v, the pair (0, N + 3) would pass for (1, 3).
    conv, x = layers(torch.float64)[0], features()
    edge_index = torch.tensor([[1, 2], [3, 4]])
    named = torch.tensor([[0, 1], [NUM_NODES + 3, 9]])
    with MessageScale(conv, named, torch.tensor([0.5, 0.5])):
        assert torch.equal(conv(x, edge_index), conv(x, edge_index.clone()))
        inside = conv(x, edge_index)
    assert torch.allclose(inside, dense_layer(conv, x, edge_index))


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (torch.ones(2, requires_grad=True), "constant"),
        (torch.tensor([1.0, float("nan")]), "finite and >= 0"),  # and all else that `scaled_messages` refuses
    ],
)
def test_scale_refusals(scale, message):
    with pytest.raises(InvalidInputError, match=message):
        MessageScale(InfluenceAwareConv(5, 4), torch.tensor([[0, 1], [1, 2]]), scale)


def test_influence_scale():
    influence = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    edge_index = torch.tensor([[0, 1, 2, 2], [0, 2, 1, 2]])
    expected = torch.tensor([0.0, -1.25, -1.25, -2.0], dtype=torch.float64).exp()
    torch.testing.assert_close(influence_scale(influence, edge_index), expected)
    # One NaN (an isolated node in the official code) would spoil all edges after min-max: refused.
    with pytest.raises(InvalidInputError, match="NaN"):
        influence_scale(torch.tensor([0.0, float("nan"), 1.0]), edge_index)
