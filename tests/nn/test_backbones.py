"""The stack of graph convolutions against PyG's layers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch_geometric.nn import GCNConv

from gunlearn.errors import InvalidInputError
from gunlearn.nn.backbones import GCN
from gunlearn.nn.sparse import SparseMatrix

NUM_NODES, NUM_FEATURES = 30, 90


def words(dtype=torch.float32):
    """Bag-of-words features, 3 of 90 words per node: sparse enough for the sparse product."""
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(NUM_FEATURES, (NUM_NODES, 3), generator=generator)
    return torch.zeros(NUM_NODES, NUM_FEATURES, dtype=dtype).scatter_(1, index, 1 / 3)


def edges():
    index = torch.randint(NUM_NODES - 2, (2, 60), generator=torch.Generator().manual_seed(1))
    return torch.cat([index, index.flip(0)], dim=1)


def gcn(depth=2, dropout=0.0, dtype=torch.float32):
    torch.manual_seed(depth)
    model = GCN(NUM_FEATURES, 8, 5, num_layers=depth, dropout=dropout).to(dtype)
    for conv in model.convs:
        nn.init.normal_(conv.bias)
    return model


def by_hand(model, x, edge_index, edge_weight=None):
    """The same weights in PyG's layers, ReLU between, none at the end, dense features."""
    for i, conv in enumerate(model.convs):
        layer = GCNConv(conv.in_channels, conv.out_channels).to(x.dtype)
        layer.lin.weight, layer.bias = conv.lin.weight, conv.bias
        x = layer(x if i == 0 else x.relu(), edge_index, edge_weight)
    return x


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weighted", [False, True])
def test_any_depth_equals_pyg_layers(depth, dtype, weighted):
    model, x, edge_index = gcn(depth, dtype=dtype), words(dtype), edges()
    weight = torch.linspace(0.5, 2, edge_index.size(1), dtype=dtype) if weighted else None
    assert len(model.convs) == depth
    found = []
    for out in (model(x, edge_index, weight), by_hand(model, x, edge_index, weight)):
        assert out.shape == (NUM_NODES, 5)
        found.append((out, *torch.autograd.grad(out.pow(2).sum(), model.parameters())))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    # Control: a ReLU after the last layer would clip.
    assert (found[0][0] < 0).any()


def test_default_sizes_are_those_of_the_literature():
    model = GCN(NUM_FEATURES)
    assert [(conv.in_channels, conv.out_channels) for conv in model.convs] == [(NUM_FEATURES, 128), (128, 64)]


def test_bag_of_words_run_as_a_sparse_product_by_themselves():
    model, x, edge_index = gcn(), words(), edges()
    seen = []
    model.convs[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    expected = by_hand(model, x, edge_index)
    csr = x.to_sparse_csr()
    for given in (x, csr):
        torch.testing.assert_close(model(given, edge_index), expected, rtol=1e-5, atol=1e-6)
    assert all(isinstance(h, SparseMatrix) for h in seen)
    seen.clear()
    dense = torch.rand(NUM_NODES, NUM_FEATURES)
    torch.testing.assert_close(model(dense, edge_index), by_hand(model, dense, edge_index), rtol=1e-5, atol=1e-5)
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(model(leaf, edge_index).pow(2).sum(), leaf)
    (plain,) = torch.autograd.grad(by_hand(model, leaf, edge_index).pow(2).sum(), leaf)
    torch.testing.assert_close(grad, plain, rtol=1e-4, atol=1e-5)
    assert grad.abs().max() > 0
    assert all(isinstance(h, torch.Tensor) for h in seen)


def test_features_edited_in_place_are_seen():
    model, x, edge_index = gcn(), words(), edges()
    before = model(x, edge_index)
    x[0] = 0  # a node whose features are to be forgotten
    torch.testing.assert_close(model(x, edge_index), by_hand(model, x, edge_index), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(model(x, edge_index), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_with_sparse_features(dtype):
    model, x, edge_index = gcn(), words(), edges()
    expected = model(x, edge_index)
    out = model.to(dtype)(x.to(dtype), edge_index)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.05)


def test_dropout_only_in_training():
    plain, model, x, edge_index = gcn(), gcn(dropout=0.5), words(), edges()
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))
    expected = plain(x, edge_index)
    model.eval()
    state = torch.get_rng_state()
    assert torch.equal(model(x, edge_index), expected)
    assert torch.equal(torch.get_rng_state(), state)
    model.train()
    first, second = model(x, edge_index), model(x, edge_index)
    assert not torch.allclose(first, second)
    assert not torch.allclose(first, expected)
    torch.manual_seed(7)
    first = model(x, edge_index)
    torch.manual_seed(7)
    assert torch.equal(model(x, edge_index), first)
    # After every ReLU and scaled: at 1 nothing but the last bias is left, on one layer nothing happens.
    everything = gcn(dropout=1.0).train()
    torch.testing.assert_close(everything(x, edge_index), everything.convs[-1].bias.expand(NUM_NODES, 5))
    single = gcn(1, dropout=1.0).train()
    assert torch.equal(single(x, edge_index), single.eval()(x, edge_index))


def test_reset_gives_the_weights_of_a_new_model():
    model = gcn(3)
    torch.manual_seed(11)
    new = GCN(NUM_FEATURES, 8, 5, num_layers=3)
    torch.manual_seed(11)
    model.reset_parameters()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), new.parameters(), strict=True))
    assert all(conv.bias.abs().max() == 0 for conv in model.convs)


def test_copies_do_not_share_weights_or_memory():
    model, x, edge_index = gcn(), words(), edges()
    before = model(x, edge_index)
    other = copy.deepcopy(model)
    assert torch.equal(other(x.clone(), edge_index.clone()), before)
    with torch.no_grad():
        other.convs[0].lin.weight.zero_()
    assert torch.equal(model(x, edge_index), before)
    assert not torch.allclose(other(x, edge_index), before)
    assert set(model.state_dict()) == {f"convs.{i}.{name}" for i in (0, 1) for name in ("bias", "lin.weight")}


@pytest.mark.parametrize("options", [{"num_layers": 0}, {"num_layers": -1}, {"dropout": 1.5}, {"dropout": -0.1}])
def test_refusals(options):
    with pytest.raises(InvalidInputError, match="Expected num_layers"):
        GCN(NUM_FEATURES, **options)
