"""`removed_edges` equals the model on the truly deleted graph."""

import copy

import pytest
import torch
from torch_geometric.nn import GATConv, GCNConv, GraphConv, MessagePassing, SAGEConv, TransformerConv

from gunlearn.errors import InvalidInputError, UnsupportedModelError
from gunlearn.nn.attach.contexts import removed_edges, scaled_messages
from tests.nn.test_attach_cases import (
    CASES,
    DIM,
    EDGE_INDEX,
    KEEP,
    NUM_NODES,
    REMOVED,
    SIMPLE,
    Net,
    assert_same,
    build,
    gradients,
    nothing_left,
    other_graph,
)


def deleted(model, x, extra, edge_index=EDGE_INDEX, keep=KEEP):
    """The oracle: a fresh copy of the model on the smaller graph."""
    twin = copy.deepcopy(model)
    out = twin(x, edge_index[:, keep], **{name: value[keep] for name, value in extra.items()})
    return [out, *gradients(twin, out)]


@pytest.mark.parametrize("case", CASES)
def test_equals_deletion_in_values_and_gradients(case):
    model, x, extra = build(case)
    want = deleted(model, x, extra)
    whole = model(x, EDGE_INDEX, **extra)  # fills the caches of cached=True layers
    assert not torch.allclose(want[0], whole), "control: doing nothing must fail"
    with nothing_left(model):
        with removed_edges(model, EDGE_INDEX[:, REMOVED]) as edited:
            assert edited is model
            for _ in range(2):
                out = model(x, EDGE_INDEX, **extra)
                assert_same([out, *gradients(model, out)], want)
        assert torch.equal(model(x, EDGE_INDEX, **extra), whole)


@pytest.mark.parametrize("case", ["gcn", "sage", "gat"])
def test_silenced_messages_are_not_deletion(case):
    """The control named in the module: the same edges with zero messages keep degrees, means and softmax."""
    model, x, extra = build(case)
    named = EDGE_INDEX[:, REMOVED]
    with scaled_messages(model, named, torch.zeros(REMOVED.numel(), dtype=torch.float64)):
        out = model(x, EDGE_INDEX, **extra)
    assert not torch.allclose(out, deleted(model, x, extra)[0], atol=1e-3)


def test_edges_are_matched_by_id_in_any_order_and_subset():
    model, x, extra = build("transformer")
    order = torch.randperm(EDGE_INDEX.size(1))[:11]
    graph, part = EDGE_INDEX[:, order], {name: value[order] for name, value in extra.items()}
    with removed_edges(model, EDGE_INDEX[:, REMOVED]):
        out = model(x, graph, **part)
        assert_same([out, *gradients(model, out)], deleted(model, x, part, graph, KEEP[order]))
        outer = model(x, EDGE_INDEX[:, :0], **{name: value[:0] for name, value in extra.items()})
        assert torch.isfinite(outer).all()


def test_mask_and_directions():
    model, x, extra = build("gat")
    with removed_edges(model, edge_index=EDGE_INDEX, mask=~KEEP):
        assert torch.equal(model(x, EDGE_INDEX), deleted(model, x, extra)[0])
    one = torch.tensor([[1], [0]])  # (0, 1) is in the graph too, twice
    forward_only = ~((EDGE_INDEX[0] == 1) & (EDGE_INDEX[1] == 0))
    both = forward_only & ~((EDGE_INDEX[0] == 0) & (EDGE_INDEX[1] == 1))
    for flag, keep in ((False, forward_only), (True, both)):
        with removed_edges(model, one, both_directions=flag):
            assert torch.equal(model(x, EDGE_INDEX), deleted(model, x, extra, keep=keep)[0])
    with removed_edges(model, EDGE_INDEX[:, :0]):
        assert torch.equal(model(x, EDGE_INDEX), model(x, EDGE_INDEX[:, :]))


def test_only_the_layers_named():
    model, x, _ = build("gcn")
    with removed_edges(model, EDGE_INDEX[:, REMOVED], layers=["convs.1"]):
        out = model(x, EDGE_INDEX)
    assert torch.equal(out, model.convs[1](model.convs[0](x, EDGE_INDEX).tanh(), EDGE_INDEX[:, KEEP]))


class OddlyNamed(MessagePassing):
    def forward(self, x, edge_index, strength):
        return self.propagate(edge_index, x=x, strength=strength)

    def message(self, x_j, strength):
        return x_j * strength.view(-1, 1)


def test_further_per_edge_arguments_are_cut_when_named():
    model, strength = OddlyNamed(), torch.rand(EDGE_INDEX.size(1), dtype=torch.float64)
    x = build("gcn")[1]
    with removed_edges(model, EDGE_INDEX[:, REMOVED], edge_args=["strength"]):
        assert torch.equal(model(x, EDGE_INDEX, strength), model.__class__()(x, EDGE_INDEX[:, KEEP], strength[KEEP]))


@pytest.mark.filterwarnings("ignore:Converting sparse tensor to CSR format:UserWarning")  # PyG's, of the layout "coo"
@pytest.mark.parametrize("layout", ["csr", "coo", "edge_index", "sorted_edge_index"])
@pytest.mark.parametrize("conv", [GCNConv, SAGEConv, GraphConv, GATConv, TransformerConv])
def test_other_kinds_of_graph(conv, layout):
    """PyG's `adj_t` holds targets in its rows: removing (v, u) instead of (u, v) fails here."""
    torch.manual_seed(1)
    # PyG's fused kernel for sorted EdgeIndex knows float32 alone.
    dtype, atol = (torch.float32, 1e-5) if layout == "sorted_edge_index" else (torch.float64, 1e-12)
    model = Net(lambda i, o: conv(i, o)).to(dtype)
    x, keep = torch.randn(NUM_NODES, DIM, dtype=dtype), torch.arange(SIMPLE.size(1)) % 3 != 0
    whole, part = (other_graph(layout, edge_index, dtype) for edge_index in (SIMPLE, SIMPLE[:, keep]))
    with nothing_left(model), removed_edges(model, SIMPLE[:, ~keep]):
        out = model(x, whole)
    assert torch.allclose(out, model(x, part), rtol=0, atol=atol)
    assert torch.allclose(out, model(x, SIMPLE[:, keep]), rtol=0, atol=atol)
    assert not torch.allclose(out, model(x, SIMPLE))


def test_unknown_kind_of_graph_is_refused():
    model, x, _ = build("gcn")
    dense = torch.zeros(NUM_NODES, NUM_NODES, dtype=torch.float64)
    with nothing_left(model), removed_edges(model, EDGE_INDEX), pytest.raises(UnsupportedModelError, match=r"convs\.0"):
        model(x, dense.to_sparse_csc())
    with removed_edges(model, EDGE_INDEX), pytest.raises(UnsupportedModelError, match=r"\[9, 9\]"):
        model(x, dense)


def test_strict_names_what_is_missing():
    model, x, _ = build("gcn")
    absent = torch.tensor([[8, 0], [7, 1]])
    with removed_edges(model, absent[:, :1]):
        inside = model(x, EDGE_INDEX)
    assert torch.equal(inside, model(x, EDGE_INDEX))
    error = pytest.raises(InvalidInputError, match=r"convs\.0.*1 .*\(8, 7\)")
    with nothing_left(model), error, removed_edges(model, absent, strict=True):
        model(x, EDGE_INDEX)
    with removed_edges(model, EDGE_INDEX[:, REMOVED], strict=True):
        model(x, EDGE_INDEX)


LONG = torch.int64
BAD = {
    "float": (dict(edge_index_to_remove=torch.zeros(2, 3)), "float32"),
    "shape": (dict(edge_index_to_remove=torch.zeros(3, 2, dtype=LONG)), r"\[3, 2\]"),
    "one dimension": (dict(edge_index_to_remove=torch.zeros(2, dtype=LONG)), r"\[2\]"),
    "bool": (dict(edge_index_to_remove=torch.zeros(2, 3, dtype=torch.bool)), "bool"),
    "list": (dict(edge_index_to_remove=[[0], [1]]), "list"),
    "negative": (dict(edge_index_to_remove=torch.tensor([[0], [-1]])), "-1"),
    "out of range": (dict(edge_index_to_remove=torch.tensor([[0], [9]]), num_nodes=9), r"\[0, 9\).*9"),
    "huge": (dict(edge_index_to_remove=torch.tensor([[0], [2**31]])), "2147483648"),
    "nothing": ({}, "neither"),
    "both": (dict(edge_index_to_remove=EDGE_INDEX, edge_index=EDGE_INDEX, mask=KEEP), "both"),
    "mask alone": (dict(mask=KEEP), "got 'mask' without it"),
    "graph alone": (dict(edge_index_to_remove=EDGE_INDEX, edge_index=EDGE_INDEX), "without"),
    "mask length": (dict(edge_index=EDGE_INDEX, mask=KEEP[1:]), r"\[14\].*\[13\]"),
    "mask dtype": (dict(edge_index=EDGE_INDEX, mask=KEEP.long()), "int64"),
    "layer": (dict(edge_index_to_remove=EDGE_INDEX, layers=["convs.7"]), r"convs\.0.*convs\.7"),
    "layer string": (dict(edge_index_to_remove=EDGE_INDEX, layers="convs.0"), "string"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    arguments, match = BAD[name]
    model = build("gcn")[0]
    with nothing_left(model), pytest.raises(InvalidInputError, match=match), removed_edges(model, **arguments):
        pass
