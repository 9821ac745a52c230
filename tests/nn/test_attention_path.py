"""Attention layers as products of sparse matrices: what must not change beside PyG's own gather-scatter."""

import pytest
import torch
import torch_geometric.nn as pyg

from gunlearn.nn import after_layer, fast_path, path_of, removed_edges, scaled_messages
from tests.nn.test_fast import DIM, NUM_NODES, Net, assert_same, graph, outputs

LAYERS = {
    "gat": lambda: Net(pyg.GATConv(DIM, 4, heads=3), pyg.GATConv(12, 4)),
    "gatv2": lambda: Net(pyg.GATv2Conv(DIM, 4, heads=3), pyg.GATv2Conv(12, 4)),
}


@pytest.fixture(params=LAYERS)
def model(request: pytest.FixtureRequest) -> torch.nn.Module:
    return LAYERS[request.param]().double()


def test_coefficients_are_learned(model: torch.nn.Module) -> None:
    x, index = graph(dtype=torch.float64)
    plain = outputs(model, x, index)
    with fast_path(model):
        fused = outputs(model, x, index)
    for found, expected in zip(fused[1], plain[1], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    attention = dict(zip(dict(model.named_parameters()), plain[1], strict=True))
    assert all(attention[name].abs().max() > 0 for name in attention if "att" in name)  # control: constant coefficients


def test_second_order_equals_the_plain_path(model: torch.nn.Module) -> None:
    x, index = graph(dtype=torch.float64)
    weights = [p for name, p in model.named_parameters() if "att" in name or "lin" in name]

    def curvature() -> tuple[torch.Tensor, ...]:
        grads = torch.autograd.grad(model(x, index).pow(3).sum(), weights, create_graph=True)
        return torch.autograd.grad(sum(grad.pow(2).sum() for grad in grads), weights)

    expected = curvature()
    with fast_path(model):
        for found, own in zip(curvature(), expected, strict=True):
            torch.testing.assert_close(found, own, rtol=1e-9, atol=1e-12)
    assert all(own.abs().max() > 0 for own in expected)


def test_dropout_of_coefficients_draws_as_before() -> None:
    model, (x, index) = Net(pyg.GATConv(DIM, 4, heads=2, dropout=0.5), pyg.GATConv(8, 4, dropout=0.5)), graph()
    torch.manual_seed(3)
    expected = outputs(model, x, index)
    with fast_path(model):
        torch.manual_seed(3)
        assert_same(outputs(model, x, index), expected)
        assert not torch.allclose(model(x, index), expected[0])  # control: another draw


def test_a_part_of_the_nodes_receives(model: torch.nn.Module) -> None:
    """Bipartite calls and per-edge features keep the layer's own messages."""
    x, index = graph(dtype=torch.float64)
    layer, other = model.first, type(model.first)(DIM, 4, edge_dim=2).double()
    pair, features = (x, x[:10]), torch.rand(index.size(1), 2, dtype=torch.float64)
    inside = index[:, index[1] < 10]
    for run, own in ((lambda: layer(pair, inside), layer), (lambda: other(x, index, features), other)):
        expected = run()
        with fast_path(own):
            torch.testing.assert_close(run(), expected)
        assert "another kind of graph or argument" in path_of(own)


def test_coefficients_that_are_returned_can_be_edited(model: torch.nn.Module) -> None:
    x, index = graph(dtype=torch.float64)
    layer = model.first
    expected, (edges, weights) = layer(x, index, return_attention_weights=True)
    with fast_path(layer):
        found, (own_edges, own_weights) = layer(x, index, return_attention_weights=True)
        own_edges.zero_(), own_weights.detach().zero_()
        torch.testing.assert_close(layer(x, index), expected)
    torch.testing.assert_close(found, expected)
    assert edges.any()
    assert weights.any()


def test_what_is_attached_still_counts(model: torch.nn.Module) -> None:
    x, index = graph(dtype=torch.float64)
    some = index[:, :30].unique(dim=1)
    plain = outputs(model, x, index)
    attached = (
        lambda: removed_edges(model, some),
        lambda: scaled_messages(model, some, torch.full((some.size(1),), 0.3, dtype=torch.float64)),
        lambda: after_layer(model, {"first": torch.tanh}),
    )
    for attach in attached:
        with attach():
            expected = outputs(model, x, index)
            assert not torch.allclose(expected[0], plain[0])
            for _ in range(2):
                with fast_path(model):
                    assert_same(outputs(model, x, index), expected)
        with fast_path(model):
            assert_same(outputs(model, x, index), plain)
    assert path_of(model) == "CSR products in 2 of 2 layers"


@pytest.mark.parametrize("loops", [True, False])
def test_calls_that_the_layer_refuses_are_still_refused(loops: bool) -> None:
    """Control: the pass with self-loops hands on the features and the graph alone."""
    (x, index), layer = graph(), pyg.GATConv(DIM, 4, add_self_loops=loops)
    wrong = (((x, index), {"foo": 1}), ((x, index), {"foo": None}), ((x, index), {"x": x}))
    for args, kwargs in (*wrong, ((x, index, None, None, None, 1), {})):
        with fast_path(layer), pytest.raises(TypeError):
            layer(*args, **kwargs)


def test_a_pass_in_inference_mode_can_be_followed_by_training(model: torch.nn.Module) -> None:
    """Control: what such a pass keeps of the graph would be tensors that autograd refuses to save."""
    x, index = graph(dtype=torch.float64)
    expected = outputs(model, x, index)
    with fast_path(model):
        with torch.inference_mode():
            model(x, index)
        assert_same(outputs(model, x, index), expected)


def test_an_error_leaves_the_layer_as_it_was(model: torch.nn.Module) -> None:
    x, index = graph(dtype=torch.float64)
    before = dict(model.first.__dict__)
    with pytest.raises((RuntimeError, IndexError, ValueError)), fast_path(model):
        model(x, index + NUM_NODES)
    assert model.first.__dict__ == before
    assert model.first.add_self_loops
