"""Gradient-based training influence: loops of plain autograd in float64, and what a step of training does."""

import warnings

import pytest
import torch
import torch_geometric
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, softplus
from torch_geometric.data import Data
from torch_geometric.nn import SAGEConv

import gunlearn as gu
from gunlearn.attribution import estimate
from gunlearn.attribution.training.gradients import last_layer
from gunlearn.errors import CheckpointError, InvalidInputError, UnsupportedMethodError
from gunlearn.methods import Result
from gunlearn.nn.kernels.switch import PlainPathWarning, plain_path
from gunlearn.requests.training_graph import distinct_pairs
from tests.attribution.second_order import NETS, net

NUM_NODES = 24


def graph(undirected=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(NUM_NODES - 1, (2, 50), generator=generator)  # the last node is isolated
    index = torch.cat([index, torch.tensor([[3], [3]])], dim=1)  # a self-loop
    index = torch.cat([index, index.flip(0)], dim=1) if undirected else index
    index = torch.cat([index, index[:, :2]], dim=1)  # copies
    data = Data(x=torch.randn(NUM_NODES, 5, generator=generator, dtype=torch.double), edge_index=index)
    data.y = torch.arange(NUM_NODES) % 3
    return gu.node_split(data, 0.3, 0.2)


def make(name="gcn", seed=0):
    return net(name, seed=seed).eval()


def f(outputs):
    return (outputs[:6] * outputs[6:12]).sum() + outputs.square().mean()


def items_and_losses(model, data, task, of):
    """Items, and each item's share of the mean training loss, written down anew and without a task."""
    logits = model(data.x, data.edge_index)
    if task == "node_classification":
        loss = cross_entropy(logits, data.y, reduction="none") * data.train_mask / data.train_mask.sum()
        return torch.arange(NUM_NODES), loss
    edges = distinct_pairs(data)
    loss = softplus(-(logits[edges[0]] * logits[edges[1]]).sum(1)) / (2 * edges.size(1))
    if of == "edges":
        return edges, loss
    return torch.arange(NUM_NODES), torch.stack([loss[(edges == v).any(0)].sum() for v in range(NUM_NODES)])


def flat(value, parameters):
    """The gradient of a number as one vector."""
    found = torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in found])


def gradients(model, data, task, of, parameters=None):
    """Gradient of the target `[num_parameters]`, and of every item's loss `[num_items, num_parameters]`, in a loop."""
    parameters = list(model.parameters()) if parameters is None else parameters
    with plain_path():
        items, losses = items_and_losses(model, data, task, of)
        losses = losses + 0 * losses.sum()  # a node may have no term at all
        pulls = torch.stack([flat(loss, parameters) for loss in losses])
        return items, flat(f(model(data.x, data.edge_index)), parameters), pulls


CASES = [("link_prediction", "edges"), ("link_prediction", "nodes"), ("node_classification", "nodes")]


@pytest.mark.parametrize(
    ("name", "task", "of", "undirected"),
    [("gcn", *case, both) for case in CASES for both in (True, False)] + [(n, *CASES[0], True) for n in NETS],
)
def test_dot_products_equal_a_loop_of_gradients(name, task, of, undirected):
    data, model = graph(undirected), make(name)
    items, target, pulls = gradients(model, data, task, of)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PlainPathWarning)
        scores = gu.influence(model, data, task, of=of, estimator="tracin", target=f, items=items, lr=0.5)
        cosines = gu.influence(model, data, task, of=of, estimator="gradient_similarity", target=f, items=items)
    torch.testing.assert_close(scores, 0.5 * pulls @ target, rtol=1e-9, atol=1e-12)
    norm = pulls.norm(dim=1) * target.norm()
    torch.testing.assert_close(cosines, torch.where(norm > 0, pulls @ target / norm, 0.0), rtol=1e-9, atol=1e-12)
    assert scores.abs().max() > 1e-4
    assert cosines.abs().max() <= 1
    if of == "nodes":  # nothing to train on: isolated, or not in the training mask
        assert scores[-1 if task == "link_prediction" else (~data.train_mask).nonzero()[0, 0]] == 0
    # Control: the gradients of other weights.
    _, other, others = gradients(make(name, seed=1), data, task, of)
    assert not torch.allclose(scores, 0.5 * others @ other, rtol=0.1)


@pytest.mark.parametrize(("task", "of"), CASES)
def test_predicts_what_a_step_of_training_without_the_item_changes(task, of):
    data, model, lr = graph(), make(), 1e-4
    items, losses = items_and_losses(model, data, task, of)
    start = dict(model.named_parameters())

    def after(loss):
        step = torch.autograd.grad(loss, list(start.values()), retain_graph=True)
        weights = {name: p - lr * g for (name, p), g in zip(start.items(), step, strict=True)}
        return f(functional_call(model, weights, (data.x, data.edge_index))).detach()

    rest = losses.sum() if of == "edges" else losses[data.train_mask].sum()
    chosen = [i for i in range(losses.numel()) if losses[i] > 0][:8]
    change = torch.stack([after(rest - losses[i]) - after(rest) for i in chosen])
    scores = gu.influence(model, data, task, of=of, estimator="tracin", target=f, items=items[..., chosen], lr=lr)
    torch.testing.assert_close(scores, change, rtol=2e-2, atol=1e-9)  # a sign or a factor would be far off
    assert change.abs().min() > 1e-9


# Checkpoints ##################################################################


def test_checkpoints_add_up(tmp_path):
    data, models = graph(), [make(seed=s) for s in range(3)]
    last = models[-1]

    def scores(model, **options):
        return estimate(model, data, "node_classification", of="nodes", estimator="tracin", target=f, **options)

    each = [scores(model).scores for model in models]
    weights = {name: p.clone() for name, p in last.state_dict().items()}
    found = scores(last, checkpoints=models, lr=[0.1, 0.2, 0.7])
    torch.testing.assert_close(found.scores, 0.1 * each[0] + 0.2 * each[1] + 0.7 * each[2])
    assert not torch.allclose(found.scores, 0.7 * each[2], rtol=0.1)  # control: the last one alone
    assert found.notes["checkpoints"] == 3
    assert all(torch.equal(weights[name], p) for name, p in last.state_dict().items())
    by_state = scores(last, checkpoints=[m.state_dict() for m in models], lr=0.5)
    torch.testing.assert_close(by_state.scores, 0.5 * sum(each))

    for i, model in enumerate(models[:2]):
        Result(model, "train", config={"lr": 0.1 * (i + 1)}).save(tmp_path / f"epoch{i}")
    torch.testing.assert_close(scores(last, checkpoints=tmp_path).scores, 0.1 * each[0] + 0.2 * each[1])
    torch.testing.assert_close(scores(last, checkpoints=str(tmp_path), lr=1).scores, each[0] + each[1])


BAD = [
    ("tracin", {"checkpoints": []}, InvalidInputError, "at least one checkpoint"),
    ("tracin", {"checkpoints": "no/such/folder"}, InvalidInputError, "at least one checkpoint"),
    ("tracin", {"lr": [0.1, 0.2]}, InvalidInputError, "one 'lr' for each of 1"),
    ("tracin", {"checkpoints": [{"weight": torch.ones(1)}]}, CheckpointError, "fit WeightedNet"),
    ("tracin", {"checkpoints": [3]}, CheckpointError, "fit WeightedNet"),
    ("gradient_similarity", {"similarity": "euclidean"}, InvalidInputError, "Expected 'similarity'"),
    ("gradient_similarity", {"parameters": "first"}, InvalidInputError, "Expected 'parameters'"),
    ("gradient_similarity", {"probes": 0}, InvalidInputError, "Expected 'probes'"),
    ("gradient_similarity", {"probes": True}, InvalidInputError, "Expected 'probes'"),
]


@pytest.mark.parametrize(("estimator", "options", "error", "message"), BAD)
def test_bad_options(estimator, options, error, message):
    with pytest.raises(error, match=message):
        gu.influence(make(), graph(), estimator=estimator, target=f, **options)


def test_damaged_checkpoints(tmp_path):
    (tmp_path / "model.safetensors").write_text("{}")
    with pytest.raises(CheckpointError, match="readable checkpoint"):
        gu.influence(make(), graph(), estimator="tracin", target=f, checkpoints=tmp_path)


# Similarity ###################################################################


def test_probes_estimate_the_norms():
    data, model = graph(), make()
    options = {"estimator": "gradient_similarity", "target": f, "items": distinct_pairs(data)}
    exact = gu.influence(model, data, probes=None, **options)
    few, many = (gu.influence(model, data, probes=k, **options) for k in (4, 30))
    assert distinct_pairs(data).size(1) > 30
    assert torch.equal(exact.sign(), many.sign())
    # Relative error of a norm 1 / sqrt(2 k) = 0.13; four standard deviations of the worst of some 40 items.
    error = [(estimate / exact - 1).abs() for estimate in (few, many)]
    assert error[1].max() < 0.6
    assert 0.03 < error[1].mean() < 0.2
    assert error[0].mean() > 1.5 * error[1].mean()  # control: fewer probes are worse


@pytest.mark.parametrize("name", ["gcn", "gat"])
def test_last_layer(name):
    data, model = graph(), make(name)
    assert {id(p) for p in last_layer(model)} == {id(p) for p in model.second.parameters()}
    items, target, pulls = gradients(model, data, "link_prediction", "edges", list(model.second.parameters()))
    options = {"estimator": "gradient_similarity", "target": f, "items": items, "similarity": "dot"}
    last = gu.influence(model, data, parameters="last_layer", **options)
    torch.testing.assert_close(last, pulls @ target)
    assert not torch.allclose(last, gu.influence(model, data, **options), rtol=0.1)

    class Headed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = SAGEConv(5, 4), nn.Linear(4, 3)

    headed = Headed()
    assert {id(p) for p in last_layer(headed)} == {id(headed.head.weight), id(headed.head.bias)}
    headed.head.requires_grad_(False)
    assert {id(p) for p in last_layer(headed)} == {id(p) for p in headed.conv.parameters()}


def test_a_model_with_its_own_decoder():
    class Scorer(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.mlp = SAGEConv(5, 4), nn.Linear(8, 1)

        def forward(self, x, edge_index):
            return self.conv(x, edge_index)

        def decode(self, z, pairs):
            return self.mlp(torch.cat([z[pairs[0]], z[pairs[1]]], dim=1)).tanh()

    torch.manual_seed(0)
    data, model = gu.link_split(graph(), 0.1, 0.1), Scorer().double()
    edges = distinct_pairs(data)
    z, parameters = model(data.x, data.edge_index), list(model.parameters())

    def loss(pairs, label):
        return softplus(-(2 * label - 1) * model.decode(z, pairs).view(-1))

    held_out = torch.cat([loss(data.val_pos_edge_index, 1.0), loss(data.val_neg_edge_index, 0.0)])
    pulls = torch.stack([flat(value, parameters) for value in loss(edges, 1.0) / (2 * edges.size(1))])
    scores = gu.influence(model, data, estimator="tracin", target="loss", items=edges)
    torch.testing.assert_close(scores, pulls @ flat(held_out.mean(), parameters))


def test_a_frozen_model_is_one_whose_parameters_all_count():
    data, model = graph(), make()
    scores = gu.influence(model, data, estimator="tracin", target=f)
    frozen = gu.influence(make().requires_grad_(False), data, estimator="tracin", target=f)
    torch.testing.assert_close(frozen, scores)
    partly = make()
    partly.first.requires_grad_(False)
    assert not torch.allclose(gu.influence(partly, data, estimator="tracin", target=f), scores, rtol=0.1)


@pytest.mark.parametrize("estimator", ["tracin", "gradient_similarity"])
def test_edges_have_no_label_of_their_own(estimator):
    with pytest.raises(UnsupportedMethodError, match=r"training loss of their own.*got edges"):
        gu.influence(make(), graph(), "node_classification", estimator=estimator, target=f)


@pytest.mark.parametrize("of", ["edges", "nodes"])
def test_passes_that_are_differentiated_twice_leave_torch_scatter_aside(monkeypatch, of):
    monkeypatch.setattr(torch_geometric.typing, "WITH_TORCH_SCATTER", True)
    seen = []

    class Watched(gu.GCN):
        def forward(self, x, edge_index):
            if torch.is_grad_enabled():
                seen.append(torch_geometric.typing.WITH_TORCH_SCATTER)
            return super().forward(x, edge_index)

    gu.influence(Watched(5, 8, 3).double(), graph(), of=of, estimator="tracin", target=f)
    assert seen == [True, False]  # the trial pass, whose graph is never differentiated, and the estimator's
    assert torch_geometric.typing.WITH_TORCH_SCATTER
