"""Data with weights of edges: it is said whether the model is called with them, and how to say otherwise."""

import copy
import warnings

import pytest
import torch
import torch_geometric.nn as pyg
from torch import nn

import gunlearn as gu
from gunlearn.seed import isolated_rng
from tests.tasks.cases import random_graph

NODES = "node_classification"


class Weighted(nn.Module):
    """Two convolutions with weights of edges under another name than ours."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = pyg.GCNConv(5, 8), pyg.GCNConv(8, 3)

    def forward(self, x, edge_index, w=None):
        return self.two(self.one(x, edge_index, w).relu(), edge_index, w)


class Starred(Weighted):
    def forward(self, *args):
        return super().forward(*args)


class Attributed(Weighted):
    def forward(self, x, edge_index, edge_attr=None):
        return super().forward(x, edge_index, edge_attr)


class Bare(Weighted):
    def forward(self, x, edge_index):
        return super().forward(x, edge_index)


class Required(Weighted):
    def forward(self, x, edge_index, edge_weight):
        return super().forward(x, edge_index, edge_weight)


def graph(**values):
    data = random_graph(30, 120)
    data.y = torch.arange(30) % 3
    for name, value in values.items():
        data[name] = value(data.edge_index.size(1))
    return data


def drawn(*shape):
    return lambda number: torch.rand(number, *shape, generator=torch.Generator().manual_seed(0)) + 0.1


def named(model, data, **options) -> tuple[list[str], gu.Result]:
    """Return what was said of weights of edges, and the result of a method that changes no weights."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        result = gu.unlearn(model, data, gu.ForgetEdges(count=2), "utu", NODES, **options)
    return [str(one.message) for one in said if "Only you know" in str(one.message)], result


def new(make):
    with isolated_rng(0):
        return make()


def of_pyg():
    return pyg.GCN(5, 8, 2, 3)


@pytest.mark.parametrize(
    ("make", "name", "is_passed", "with_it"),
    [
        (Weighted, "edge_weight", "is not passed", "model(data.x, data.edge_index, w=data.edge_weight)"),
        (Starred, "edge_weight", "is not passed", "model(data.x, data.edge_index, data.edge_weight)"),
        (Attributed, "edge_weight", "is not passed", "model(data.x, data.edge_index, edge_attr=data.edge_weight)"),
        (of_pyg, "edge_weight", "is passed", "model(data.x, data.edge_index, edge_weight=data.edge_weight)"),
        (Attributed, "edge_attr", "is passed", "model(data.x, data.edge_index, edge_attr=data.edge_attr)"),
        (of_pyg, "edge_attr", "is not passed", "edge_weight=data.edge_attr)"),
    ],
    ids=["w=None", "*args", "edge_attr=None", "PyG's GCN", "edge_attr", "PyG's GCN and edge_attr"],
)
def test_weights_that_are_passed_or_not_are_named_once(make, name, is_passed, with_it) -> None:
    """The two calls that are offered are right: each ends the warning, and only the other one changes outputs."""
    model, data = new(make).eval(), graph(**{name: drawn()})
    said, result = named(model, data)
    assert len(said) == 1
    assert f"data.{name} {is_passed} to the model" in said[0]
    assert with_it in said[0]
    assert result.notes["why"].startswith(f"data.{name} {is_passed} to the model.")
    usual = result.task.encode(model, data)
    offered = [part.partition(";")[0].partition(". Either")[0] for part in said[0].split("call=")[1:]]
    calls = [eval(code) for code in offered]  # code of the message, as its reader would paste it
    equal = [torch.allclose(call(model, data), usual) for call in calls]
    assert equal == ([True, False] if is_passed == "is passed" else [False, True])
    for call in calls:
        assert not named(model, data, call=call)[0]


@pytest.mark.parametrize(
    ("make", "values"),
    [
        (Weighted, {}),
        (of_pyg, {}),
        (of_pyg, {"edge_weight": torch.ones}),
        (Weighted, {"edge_weight": torch.ones}),
        (Bare, {"edge_weight": drawn()}),
        (Required, {"edge_weight": drawn()}),
        (lambda: pyg.GraphSAGE(5, 8, 2, 3), {"edge_weight": drawn()}),
        (lambda: pyg.GAT(5, 8, 2, 3, edge_dim=2), {"edge_attr": drawn(2)}),
    ],
    ids=["no weights", "no weights, PyG", "ones", "ones, w", "no argument", "needed", "unused", "several columns"],
)
def test_nothing_is_said_where_there_is_no_other_call(make, values) -> None:
    said, result = named(new(make), graph(**values))
    assert not said
    assert "passed to the model" not in result.notes["why"]


def test_a_model_of_gu_train_was_trained_as_it_is_called() -> None:
    """Nothing is said of it, nor of a result made of it; once its owner trains it further, or of a copy, it is."""
    data = graph(edge_weight=drawn())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = gu.train(new(of_pyg), data, NODES, epochs=2).model
    said, result = named(model, data)
    assert not said
    assert not named(result.model, data)[0]
    assert named(copy.deepcopy(model), data)[0]
    with torch.no_grad():
        next(model.parameters()).add_(0.0)
    assert named(model, data)[0]
    otherwise = gu.train(new(of_pyg), data, NODES, epochs=2, call=lambda m, d: m(d.x, d.edge_index)).model
    assert named(otherwise, data)[0]


def test_training_and_influence_say_so_too() -> None:
    data = graph(edge_weight=drawn())
    with pytest.warns(UserWarning, match=r"data\.edge_weight is not passed"):
        gu.train(new(Weighted), data, NODES, epochs=1)
    with pytest.warns(UserWarning, match=r"data\.edge_weight is passed"):
        gu.influence(new(of_pyg), data, NODES, of="nodes", items=[0])


def test_the_model_and_the_data_do_not_change() -> None:
    model, data = new(Weighted).train(), graph(edge_weight=drawn())
    before = copy.deepcopy(model.state_dict()), data.clone(), torch.get_rng_state()
    named(model, data)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before[2])
    assert all(torch.equal(value, before[0][name]) for name, value in model.state_dict().items())
    assert set(data.keys()) == set(before[1].keys())
    assert torch.equal(data.edge_weight, before[1].edge_weight)
