"""A stop criterion and the step after it multiply features with the first weights once, and nothing else changes."""

import pytest
import torch
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.methods import Callback
from gunlearn.nn.kernels import shared_product as shared
from gunlearn.nn.kernels.bag_of_words import sparse_features
from gunlearn.nn.layers.influence_conv import InfluenceAwareConv
from gunlearn.seed import isolated_rng


@pytest.fixture(params=["sparse", "dense"])
def problem(request):
    generator = torch.Generator().manual_seed(0)
    edges = torch.randint(60, (2, 300), generator=generator)
    edges = edges[:, edges[0] != edges[1]]
    x = torch.randn(60, 80, generator=generator)
    if request.param == "sparse":
        x = torch.where(torch.rand(x.shape, generator=generator) < 0.04, x, 0)
    graph = Data(x=x, edge_index=torch.cat([edges, edges.flip(0)], dim=1).unique(dim=1))
    data = gu.link_split(graph, seed=0)
    with isolated_rng(0):
        model = gu.GCN(80, 16, 8)
    return gu.train(model, data, epochs=20, eval_every=20).model, data


def run(problem, callbacks=()):
    model, data = problem
    return gu.unlearn(
        model, data, gu.ForgetEdges(ratio=0.1, seed=0), method="inpo", epochs=4, lr=1e-3, seed=0, callbacks=callbacks
    )


@pytest.fixture
def products(monkeypatch):
    """Counts products of the features with the first weights, and those that were there already."""
    count = {"computed": 0, "taken": 0}
    linear, take = shared.linear, shared._Shared.take

    def counted(self, weight):
        product = take(self, weight)
        count["taken"] += product is not None
        return product

    monkeypatch.setattr(shared._Shared, "take", counted)
    monkeypatch.setattr(
        "gunlearn.nn.layers.influence_conv.linear",
        lambda x, layer: count.update(computed=count["computed"] + 1) or linear(x, layer),
    )
    return count


def without(monkeypatch) -> None:
    monkeypatch.setattr(shared._Shared, "reads", lambda self, x: False)


def test_each_step_takes_the_product_of_its_stop_criterion(problem, products, monkeypatch):
    result = run(problem)
    assert result.epochs == 4
    assert products["taken"] == 4
    assert shared._SHARED.get() is None  # nothing is left behind
    without(monkeypatch)
    plain = run(problem)
    assert products["taken"] == 4
    assert [r["loss"] for r in plain.history] == [r["loss"] for r in result.history]
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, result.model.state_dict()[name])


class Edit(Callback):
    """Changes weights where no version counter sees it, after the stop criterion."""

    def on_step_begin(self, args, state, control, *, model, **kwargs):
        model.convs[0].lin.weight.data.mul_(1.01)


def test_weights_that_were_changed_in_between_are_multiplied_anew(problem, products, monkeypatch):
    result = run(problem, [Edit()])
    assert products["taken"] == 0
    without(monkeypatch)
    assert [r["loss"] for r in run(problem, [Edit()]).history] == [r["loss"] for r in result.history]


@pytest.mark.parametrize("change", ["hook", "features", "none"])
def test_what_is_attached_to_the_map_is_seen(problem, change):
    _, data = problem
    layer, calls = InfluenceAwareConv(80, 4), []
    x = data.x
    features = sparse_features(x) if change != "hook" else x
    features = x if features is None else features
    if change == "hook":
        layer.lin.register_forward_hook(lambda *_: calls.append(1))
    with shared.shared_product(x if change != "features" else x.clone()):
        with torch.no_grad():
            first = layer(features, data.edge_index)
        second = layer(features, data.edge_index)
        taken = type(second.grad_fn).__name__
    torch.testing.assert_close(first, second.detach(), rtol=0, atol=0)
    assert len(calls) == (2 if change == "hook" else 0)
    assert taken


def test_a_taken_product_is_differentiable_twice(problem):
    _, data = problem
    layer = torch.nn.Linear(80, 4, bias=False)
    x = sparse_features(data.x)
    x = data.x if x is None else x

    def gradients(take):
        with shared.shared_product(data.x if take else None):
            if take:
                with torch.no_grad():
                    shared.linear(x, layer)
            out = shared.linear(x, layer)
        (first,) = torch.autograd.grad(out.pow(3).sum(), layer.weight, create_graph=True)
        return out.grad_fn.name(), first, *torch.autograd.grad(first.pow(2).sum(), layer.weight)

    (taken, *ours), (computed, *plain) = gradients(True), gradients(False)
    assert taken != computed
    torch.testing.assert_close(ours, plain)
