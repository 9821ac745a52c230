"""Ends that differ in more than parameters: what changes a function is refused, what does not is no obstacle."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch_geometric.nn import GATConv

import gunlearn as gu
from gunlearn.connectivity import BezierPath, LinearPath, align_models, connect
from gunlearn.connectivity.alignment import merge_in_closed_form
from gunlearn.connectivity.ends_of_paths import path_ends
from gunlearn.errors import UnsupportedModelError
from gunlearn.nn import backbone
from tests.connectivity.cases import gnn, graph, items, perceptron, trained

TASK = gu.ImageClassification()


class Own(nn.Module):
    """A network of the caller's, with something in a plain attribute."""

    def __init__(self, **attributes: object) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls = getattr(self, "calls", 0) + 1
        shift = getattr(self, "shift", getattr(self, "_shift", 0.0))
        x = x - torch.as_tensor(shift)[:4] if isinstance(shift, list) else x - shift
        return self.b(self.a(x).abs() ** getattr(self, "p", 1))


def ends(one: dict, two: dict) -> tuple[list[nn.Module], object]:
    torch.manual_seed(0)
    data = items(number=60)
    return [trained(Own(**given), data, seed, steps=30) for seed, given in enumerate((one, two))], data


@pytest.mark.parametrize(
    ("one", "two", "words"),
    [
        ({"shift": torch.zeros(4)}, {"shift": torch.full((4,), 2.0)}, "data in 'shift' differ"),
        ({"shift": [0.0] * 20}, {"shift": [2.0] * 20}, "data in 'shift' differ"),
        ({"p": 1}, {"p": 3}, "p of '' was 1, and is 3"),
    ],
    ids=["tensor", "list", "p"],
)
def test_attributes_that_change_the_function_are_refused(one: dict, two: dict, words: str) -> None:
    """Control: the same attribute on both ends is none of them."""
    models, data = ends(one, two)
    for refusing in (
        lambda: LinearPath(*models),
        lambda: connect(*models, data, task=TASK, points=3),
        lambda: merge_in_closed_form(*models, 1.0, inputs=data.x),
        lambda: align_models(*models, inputs=data.x),
    ):
        with pytest.raises(UnsupportedModelError, match=f"one architecture.*{words}"):
            refusing()
    models, data = ends(one, one)
    assert len(connect(*models, data, task=TASK, points=3).evaluation.rows) == 3


def test_what_no_attribute_tells_is_found_by_running_both() -> None:
    """A name that begins with an underscore may be a cache, or what the function depends on."""
    models, data = ends({"_shift": torch.zeros(4)}, {"_shift": torch.full((4,), 2.0)})
    with pytest.raises(UnsupportedModelError, match="a difference in something else"):
        connect(*models, data, task=TASK, points=3)
    models[1]._shift = torch.zeros(4)  # control
    assert len(connect(*models, data, task=TASK, points=3).evaluation.rows) == 3


def test_seeds_counters_and_histories_are_no_obstacle() -> None:
    models, data = ends({"seed": 0, "losses": [0.5] * 20}, {"seed": 1, "losses": [0.4] * 30})
    models[0](data.x)
    assert models[0].calls != models[1].calls
    found = connect(*models, data, task=TASK, points=3)
    mask = data.train_mask
    for t, model in ((0, models[0]), (-1, models[1])):
        own = float(nn.functional.cross_entropy(model(data.x[mask]), data.y[mask]))
        assert found.evaluation.rows[t]["loss_retain"] == pytest.approx(own, abs=1e-6)
    assert "seed of '' was 0, and is 1" in found.evaluation.notes["settings"]
    with pytest.raises(UnsupportedModelError, match="seed"):  # without data nobody can tell
        LinearPath(*models)


def test_rates_of_dropout_are_no_obstacle() -> None:
    data, task = graph(), "node_classification"
    models = [gu.train(backbone("gcn", 5, 8, 2, dropout=p), data, task, epochs=5).model for p in (0.0, 0.5)]
    assert torch.equal(LinearPath(*models).model_at(1)(data.x, data.edge_index), models[1](data.x, data.edge_index))
    assert connect(*models, data, task=task, points=3).evaluation.barrier_retain is not None
    assert align_models(*models, data=data).notes["difference"] < 1e-5
    layers = [nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2, momentum=m)) for m in (0.1, 0.3)]
    assert path_ends(*layers).statistics
    assert path_ends(GATConv(3, 2, dropout=0.1), GATConv(3, 2, dropout=0.2)).moving
    with pytest.raises(UnsupportedModelError, match="eps"):  # control: this one is read in evaluation
        LinearPath(*(nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2, eps=e)) for e in (0.1, 0.3)))


def negated() -> type[nn.Module]:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return -self.b(self.a(x).abs())

    return Own


@pytest.mark.parametrize(
    "use", [LinearPath, lambda a, b: align_models(a, b, inputs=torch.ones(2, 4)), lambda a, b: connect(
        a, b, items(), task=TASK, points=3)], ids=["path", "align", "connect"],
)  # fmt: skip
def test_another_forward_is_refused(use: Callable) -> None:
    with pytest.raises(UnsupportedModelError, match="the code of 'Own' differs"):
        use(Own(), negated()())


@pytest.mark.parametrize("which", [0, 1])
def test_weights_on_meta_are_refused_in_words(which: int) -> None:
    pair = [perceptron(0), perceptron(1)]
    pair[which] = pair[which].to("meta")
    words = f"{('first', 'second')[which]} model .got '0.weight' on 'meta'"
    with pytest.raises(UnsupportedModelError, match=words):
        LinearPath(*pair)
    with pytest.raises(UnsupportedModelError, match=words):
        connect(*pair, items(), task=TASK, points=3)


def test_a_path_of_two_frozen_models_bends_all_weights() -> None:
    same = perceptron().requires_grad_(False)
    assert set(BezierPath(same, copy.deepcopy(same)).moving) == {name for name, _ in same.named_parameters()}


def test_adapters_that_stay_after_merging_are_refused() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lora_a = nn.Linear(4, 3)

        def merge_and_unload(self) -> nn.Module:
            return self

    with pytest.raises(UnsupportedModelError, match=r"merges into the weights \(got 'lora_a.weight'"):
        LinearPath(Half(), Half())


@pytest.mark.parametrize("align", ["weights", "messages"])
def test_a_model_without_hidden_layers_comes_back_as_it_is(align: str) -> None:
    """The task's choice of a label's logit is no part of the model: it keeps no layer from being understood."""
    data = items(number=60)
    flat = [trained(nn.Sequential(nn.Linear(4, 3)), data, seed) for seed in (0, 1)]
    found = connect(*flat, data, task=TASK, points=3, align=align)
    assert all(torch.equal(found.path.weights(1)[n], p) for n, p in flat[1].named_parameters())
    deep = connect(perceptron(0), perceptron(1), data, task=TASK, points=3, align=align).evaluation.notes["alignment"]
    for said in (found.evaluation.notes["alignment"], deep):
        assert "not understood" not in said
        assert "(they are the model's output)" in said
    nodes = graph()
    said = connect(gnn("gcn", nodes), gnn("gcn", nodes, 1), nodes, task="node_classification", points=3, align=align)
    assert "not understood" not in said.evaluation.notes["alignment"]
