"""First-order influence: Jacobians by dense autograd and finite differences, their norms by Cauchy probes."""

import pytest
import torch
import torch_geometric.nn as pyg
from torch.autograd.functional import jacobian
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.attribution import FirstOrder, resolve_items
from gunlearn.errors import InvalidInputError, UnsupportedModelError
from tests.attribution.removal import HIDDEN, OUT, SIZE, Stack, off, randomised, weighted
from tests.attribution.second_order import Net, WeightedNet
from tests.attribution.second_order import graph as some_graph

NODES = 12


def graph() -> Data:
    """Undirected, without loops or copies."""
    return some_graph(NODES)


class ScaledGAT(pyg.GATConv):
    """The oracle: the layer's own message, written out, times a scale; loops that the layer adds come last."""

    scale = None

    def message(self, x_j, alpha):
        out = alpha.unsqueeze(-1) * x_j
        if self.scale is None:
            return out
        scale = torch.cat([self.scale, self.scale.new_ones(NODES)])
        return scale.view(-1, 1, 1) * out


def weighted_net():
    return WeightedNet(pyg.GCNConv(SIZE, HIDDEN), pyg.GCNConv(HIDDEN, OUT))


def attention(conv=pyg.GATConv):
    return Net(conv(SIZE, 3, heads=2), conv(6, OUT))


def by_weight(model, data):
    weight = data.get("edge_weight")
    weight = 1.0 if weight is None else weight
    return lambda mask: model(data.x, data.edge_index, mask * weight)


def by_message(model, data):
    oracle = attention(ScaledGAT).double().eval()
    oracle.load_state_dict(model.state_dict())

    def run(mask):
        oracle.first.scale = oracle.second.scale = mask
        return oracle(data.x, data.edge_index)

    return run


def taken(items, num_edges):
    """`[num_items, num_edges]`: 1 where an item takes a column out."""
    out = torch.zeros(items.num_items, num_edges, dtype=torch.float64)
    for i in range(items.num_items):
        out[i, items.column[items.column_ptr[i] : items.column_ptr[i + 1]]] = 1
    return out


def norms(run, data, of, target):
    """`[num_asked]`: the norm of each item's column of the dense Jacobian."""

    def values(mask):
        z = run(mask)
        return z.softmax(dim=1) if target == "probabilities" else z

    items, place = resolve_items(data, of)
    dense = jacobian(values, torch.ones(data.num_edges, dtype=torch.float64))  # [num_nodes, dim, num_edges]
    columns = dense @ taken(items, data.num_edges).t()
    size = columns.abs().sum(dim=(0, 1)) if target == "probabilities" else columns.norm(dim=1).sum(dim=0)
    return size[place]


PROBLEMS = {
    "gcn": (weighted_net, graph, by_weight, "weight"),
    "gcn weighted": (weighted_net, weighted, by_weight, "weight"),
    "gat": (attention, graph, by_message, "message"),
}


@pytest.mark.parametrize("target", ["probabilities", "embeddings"])
@pytest.mark.parametrize("of", ["edges", "nodes"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_every_output_in_turn_is_the_dense_jacobian(name, of, target):
    make, data, oracle, mask = PROBLEMS[name]
    model, data = randomised(make()), data()
    result = gu.attribution.estimate(model, data, of=of, estimator="first_order", probes=None, mask=mask, target=target)
    wanted = norms(oracle(model, data), data, of, target)
    assert result.notes["mask"] == mask
    assert off(result.scores, wanted) < 1e-9
    other = norms(oracle(model, data), data, of, {"probabilities": "embeddings"}.get(target, "probabilities"))
    assert off(result.scores, other) > 1e-2  # the control: norms differ


def test_masks_are_two_questions():
    """Degrees follow a weight, and not a scaled message."""
    model, data = randomised(weighted_net()), graph()
    weight, message = (
        gu.influence(model, data, estimator="first_order", probes=None, mask=mask) for mask in ("weight", "message")
    )
    assert off(message, weight) > 1e-2


def test_features_are_entries_times_their_gradient():
    model, data = randomised(attention()), graph()
    dense = jacobian(lambda x: model(x, data.edge_index), data.x)  # [num_nodes, dim, num_nodes, num_features]
    per_entry = dense * data.x
    for items, moved in (
        (None, per_entry.sum(dim=2).permute(2, 0, 1)),
        (torch.tensor([[0, 3], [1, 4]]), torch.stack([per_entry[:, :, 0, 1], per_entry[:, :, 3, 4]])),
    ):
        given = {"of": "features", "items": items, "target": "embeddings", "estimator": "first_order", "probes": None}
        wanted = moved.norm(dim=2).sum(dim=1)
        assert off(gu.influence(model, data, **given), wanted) < 1e-9
        sparse = data.clone()
        sparse.x = data.x.to_sparse_csr()
        assert off(gu.influence(model, sparse, **given), wanted) < 1e-9


def number(z):
    return z.softmax(dim=1)[:, 0].square().sum() + z[3].prod()


@pytest.mark.parametrize("of", ["edges", "nodes"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_values_are_finite_differences(name, of):
    make, data, oracle, mask = PROBLEMS[name]
    model, data = randomised(make()), data()
    found = gu.influence(model, data, of=of, estimator="first_order", mask=mask, target=number)
    run, (items, place) = oracle(model, data), resolve_items(data, of)
    step = 1e-5
    with torch.no_grad():
        along = [number(run(1 - step * d)) - number(run(1 + step * d)) for d in taken(items, data.num_edges)]
    wanted = torch.stack(along)[place] / (2 * step)  # taking it out
    assert off(found, wanted) < 1e-7
    assert off(-found, wanted) > 1  # the control: the sign


def log_ratio(target, probes=300):
    model, data = randomised(weighted_net()), graph()
    exactly = gu.influence(model, data, estimator="first_order", probes=None, target=target)
    found = gu.influence(model, data, estimator="first_order", probes=probes, target=target)
    return (found / exactly).log()


@pytest.mark.parametrize("target", ["probabilities", "embeddings"])
def test_cauchy_probes_estimate_the_norm(target):
    ratio = log_ratio(target)
    error = torch.pi / 2 / 300**0.5  # standard deviation of log |Cauchy| over the root of the number of probes
    assert abs(float(ratio.mean())) < 3 * error
    assert float(ratio.square().mean().sqrt()) < 2 * error


def test_few_probes_are_as_far_off_as_they_say():
    """The control of the bound above: with a hundredth of the probes the error is ten times as large."""
    ratio = log_ratio("probabilities", probes=3)
    error = torch.pi / 2 / 3**0.5
    assert error / 3 < float(ratio.square().mean().sqrt()) < 2 * error


@pytest.mark.parametrize("target", ["probabilities", "embeddings"])
def test_gaussian_probes_do_not(target, monkeypatch):
    """The control: without the denominator the probes measure another norm."""
    draw, calls = torch.randn, []

    def every_other_is_one(*args, **kwargs):
        calls.append(args)
        out = draw(*args, **kwargs)
        return torch.ones_like(out) if len(calls) % 2 == 0 else out

    model, data = randomised(weighted_net()), graph()
    exactly = gu.influence(model, data, estimator="first_order", probes=None, target=target)
    monkeypatch.setattr(torch, "randn", every_other_is_one)
    found = gu.influence(model, data, estimator="first_order", probes=300, target=target)
    assert len(calls) == 600
    assert float((found / exactly).log().mean()) < -0.5


def test_seed_says_which_probes():
    model, data = randomised(weighted_net()), graph()
    one, other = (gu.influence(model, data, estimator="first_order", seed=seed) for seed in (0, 1))
    assert not one.allclose(other)


MASKS = {
    "gcn": (weighted_net, "weight"),
    "gat": (attention, "message"),
    "half": (lambda: Stack(pyg.SAGEConv(SIZE, HIDDEN), pyg.GCNConv(HIDDEN, OUT)), "message"),  # one layer reads them
    "pyg.GAT": (lambda: pyg.GAT(SIZE, HIDDEN, 2, OUT), "message"),  # has the argument; its layers never see it
}


@pytest.mark.parametrize("name", MASKS)
def test_weights_are_the_default_where_they_are_read(name):
    make, mask = MASKS[name]
    model, data = randomised(make()), graph()
    result = gu.attribution.estimate(model, data, estimator="first_order", probes=3)
    assert result.notes["mask"] == mask
    assert (result.scores > 0).all()
    assert result.scores.equal(gu.influence(model, data, estimator="first_order", probes=3, mask=mask))
    if mask == "message":
        with pytest.raises(UnsupportedModelError, match="edge_weight"):
            gu.influence(model, data, estimator="first_order", mask="weight")


def test_a_model_without_a_gradient():
    class Cut(Net):
        def forward(self, x, edge_index):
            return super().forward(x, edge_index).detach()

    model = randomised(Cut(pyg.GCNConv(SIZE, HIDDEN), pyg.GCNConv(HIDDEN, OUT)))
    for of in ("edges", "features"):
        with pytest.raises(UnsupportedModelError, match="gradient"):
            gu.influence(model, graph(), of=of, estimator="first_order")


def test_features_without_a_gradient():
    class Adds(Net):
        def forward(self, x, edge_index):
            return super().forward(x.double(), edge_index)

    data = graph()
    data.x = data.x > 0
    model = randomised(Adds(pyg.GCNConv(SIZE, HIDDEN), pyg.GCNConv(HIDDEN, OUT)))
    with pytest.raises(InvalidInputError, match=r"floating point .* torch\.bool.* 'brute'"):
        gu.influence(model, data, of="features", estimator="first_order")
    assert bool(gu.influence(model, data, of="features", estimator="brute").isfinite().all())


@pytest.mark.parametrize("kwargs", [{"probes": 0}, {"probes": -3}, {"mask": "edges"}, {"mask": ""}])
def test_bad_options(kwargs):
    with pytest.raises(InvalidInputError, match="Expected"):
        FirstOrder(**kwargs)


def test_frozen_weights():
    model, data = randomised(weighted_net()), graph()
    wanted = gu.influence(model, data, estimator="first_order", target=number)
    assert gu.influence(model.requires_grad_(False), data, estimator="first_order", target=number).equal(wanted)
