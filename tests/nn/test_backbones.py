"""The stack of graph convolutions against PyG's layers, and every backbone against dense formulas and the tasks."""

import copy

import pytest
import torch
from torch import nn
from torch_geometric.nn import GAT, GIN, GCNConv, GraphSAGE, SGConv

import gunlearn as gu
from gunlearn.bench.models import Recipe
from gunlearn.errors import InvalidInputError
from gunlearn.nn import BACKBONES, backbone, removed_edges
from gunlearn.nn.kernels.sparse import SparseMatrix
from gunlearn.nn.zoo import GCN, APPNPNet, GCNIINet
from gunlearn.training.from_scratch import reset_model

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


@pytest.mark.parametrize("depth", [1, 2, 5])
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


@pytest.mark.parametrize("options", [{"num_layers": 0}, {"dropout": 1.5}, {"dropout": -0.1}])
def test_gcn_refusals(options):
    with pytest.raises(InvalidInputError, match="Expected num_layers"):
        GCN(NUM_FEATURES, **options)


NAMES = sorted(BACKBONES)


def new(name, in_channels=NUM_FEATURES, seed=0, **options):
    torch.manual_seed(seed)
    return backbone(name, in_channels, 8, 5, **options)


def karate():
    return gu.link_split(gu.load("karate"), 0.1, 0.1)


def dense_norm(edge_index):
    """Symmetrically normalised adjacency with self-loops, float64, copies of an edge added up."""
    a = torch.eye(NUM_NODES, dtype=torch.float64)
    a.index_put_((edge_index[1], edge_index[0]), torch.ones(edge_index.size(1), dtype=a.dtype), accumulate=True)
    d = a.sum(1).rsqrt()
    return d[:, None] * a * d[None]


def test_each_name_is_its_model():
    kinds = {"gcn": GCN, "sage": GraphSAGE, "gat": GAT, "gin": GIN, "sgc": SGConv}
    kinds |= {"appnp": APPNPNet, "gcnii": GCNIINet}
    assert {name: type(new(name)) for name in NAMES} == kinds
    torch.manual_seed(0)
    today = GCN(NUM_FEATURES, 8, 5)
    assert all(torch.equal(a, b) for a, b in zip(new("gcn").parameters(), today.parameters(), strict=True))
    for name in ("gcn", "sage", "gat"):
        assert [conv.out_channels for conv in new(name, num_layers=3).convs] == [8, 8, 5]
    assert new("gat", heads=4).convs[0].heads == 4
    assert new("sage", aggr="sum").convs[0].aggr == "sum"


@pytest.mark.parametrize("depth", [1, 3])
def test_dense_formulas(depth):
    x, edge_index = words(torch.float64), torch.unique(edges(), dim=1)
    edge_index = edge_index[:, edge_index[0] != edge_index[1]]
    a = dense_norm(edge_index)
    model = new("sgc", num_layers=depth).double()
    expected = torch.linalg.matrix_power(a, depth) @ x @ model.lin.weight.t() + model.lin.bias
    torch.testing.assert_close(model(x, edge_index), expected)

    model = new("appnp", num_layers=depth, K=4, alpha=0.3).double()
    h = x
    for i, lin in enumerate(model.lins):
        h = (h if i == 0 else h.relu()) @ lin.weight.t() + lin.bias
    expected = sum(0.3 * torch.linalg.matrix_power(0.7 * a, k) for k in range(4)) @ h
    expected = expected + torch.linalg.matrix_power(0.7 * a, 4) @ h
    assert len(model.lins) == depth
    torch.testing.assert_close(model(x, edge_index), expected)

    model = new("gcnii", num_layers=depth, alpha=0.2, theta=0.7).double()
    h = start = (x @ model.first.weight.t() + model.first.bias).relu()
    for layer, conv in enumerate(model.convs, start=1):
        beta = torch.tensor(0.7 / layer + 1, dtype=torch.float64).log()
        mixed = 0.8 * a @ h + 0.2 * start
        h = ((1 - beta) * mixed + beta * mixed @ conv.weight1).relu()
    assert len(model.convs) == depth
    torch.testing.assert_close(model(x, edge_index), h @ model.last.weight.t() + model.last.bias)


@pytest.mark.parametrize(
    ("name", "task"), [*((name, "link_prediction") for name in NAMES), ("gcn", "node_classification")]
)
def test_every_backbone_trains(name, task):
    data = karate() if task == "link_prediction" else gu.node_split(gu.load("karate"), 0.2, 0.2)
    out = gu.train(new(name, data.num_features), data, task, epochs=80, lr=1e-2, eval_every=80)
    losses = [record["loss"] for record in out.history]  # negatives are fresh at each step: means are steadier
    first, last = sum(losses[:5]) / 5, sum(losses[-10:]) / 10
    assert last < first - 0.05
    still = gu.train(new(name, data.num_features), data, task, epochs=20, lr=1e-9, eval_every=20)  # control
    assert sum(record["loss"] for record in still.history[-10:]) / 10 > first - 0.05


@pytest.mark.parametrize("name", NAMES)
def test_weights_can_be_drawn_anew_copied_and_loaded(name):
    model, x, edge_index = new(name).eval(), words(), edges()
    out = model(x, edge_index)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(x, edge_index), out)
    fresh = reset_model(model).eval()
    assert torch.equal(model(x, edge_index), out)
    assert not torch.allclose(fresh(x, edge_index), out)
    fresh.load_state_dict(twin.state_dict())
    assert torch.equal(fresh(x, edge_index), out)


@pytest.mark.parametrize("name", NAMES)
def test_sparse_features_give_what_dense_ones_give(name):
    data = karate()
    model, sparse = new(name, data.num_features).eval(), copy.copy(data)
    sparse.x = data.x.to_sparse_csr()
    task, out = gu.LinkPrediction(), model(data.x, data.edge_index)
    for given in (data, sparse):
        torch.testing.assert_close(task.encode(model, given), out, rtol=1e-4, atol=1e-5)
    path = gu.unlearn(model, sparse, gu.ForgetEdges(count=3), "finetune", epochs=1).notes["path"]
    assert "sparse features" in path
    assert "gather-scatter" not in path


@pytest.mark.filterwarnings("ignore::gunlearn.attribution.SlowEstimatorWarning")
@pytest.mark.parametrize("name", NAMES)
def test_edges_can_be_removed_and_their_influence_told(name):
    data = karate()
    model = gu.train(new(name, data.num_features), data, epochs=20, lr=1e-2, eval_every=20).model
    result = gu.unlearn(model, data, gu.ForgetEdges(count=4, seed=1), "utu")
    partition = result.partition
    expected = model(data.x, data.edge_index[:, ~partition.forget_mask])
    with removed_edges(model, data.edge_index[:, partition.forget_mask]):
        removed = model(data.x, data.edge_index)
    torch.testing.assert_close(removed, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(result.model(data.x, partition.retain_data.edge_index), expected, rtol=1e-4, atol=1e-6)
    whole = model(data.x, data.edge_index)
    assert not torch.allclose(whole, expected, rtol=1e-3, atol=1e-4)  # control: the edges matter
    items = partition.forget_edge_index
    truth = []
    for pair in items.t():
        kept = ~((data.edge_index == pair[:, None]).all(0) | (data.edge_index == pair.flip(0)[:, None]).all(0))
        after = model(data.x, data.edge_index[:, kept])
        truth.append((after.softmax(1) - whole.softmax(1)).abs().sum())
    scores = gu.influence(model, data, items=items)
    torch.testing.assert_close(scores, torch.stack(truth).detach(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"sgc"}))
def test_dropout_of_every_backbone_is_for_training_alone(name):
    x, edge_index = words(), edges()
    plain, model = new(name).eval(), new(name, dropout=0.5)
    assert torch.equal(model.eval()(x, edge_index), plain(x, edge_index))
    assert not torch.allclose(model.train()(x, edge_index), plain(x, edge_index))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gnn", {}, "Expected a backbone among"),
        ("GCN", {}, "Expected a backbone among"),
        (None, {}, "Expected a backbone among"),
        *((name, {"num_layers": 0}, "Expected sizes >= 1") for name in NAMES),
        *((name, {"no_such_option": 1}, f"Expected options that '{name}' takes") for name in NAMES),
        ("gat", {"heads": 3}, "Expected options that 'gat' takes"),
        ("sage", {"dropout": 1.5}, "dropout in"),
    ],
)
def test_backbone_refusals(name, options, message):
    with pytest.raises(InvalidInputError, match=message):
        backbone(name, 16, 8, 4, **options)


def test_recipes_name_a_backbone():
    data = karate()
    assert isinstance(Recipe().model(data, 0), GCN)
    model = Recipe(backbone="gat", hidden_channels=8, out_channels=5, num_layers=3).model(data, 0)
    assert isinstance(model, GAT)
    assert (model.num_layers, model.out_channels) == (3, 5)
    again = Recipe(backbone="gat", hidden_channels=8, out_channels=5, num_layers=3).model(data, 0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    with pytest.raises(InvalidInputError, match="Expected a backbone among"):
        Recipe(backbone="transformer")
