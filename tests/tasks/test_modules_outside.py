"""Modules that `call` or `decode` runs beside the model are named: no method trains or copies them."""

import copy
import functools
import warnings
from types import SimpleNamespace

import pytest
import torch
import torch_geometric.nn as pyg
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

import gunlearn as gu
from gunlearn.tasks import as_task
from tests.model_kinds import blocks, links

GLOBAL = nn.Linear(4, 1)
MADE = {"kept": nn.Linear(4, 1)}


class Predictor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, model, z, pairs):
        return self.layer(z[pairs[0]] * z[pairs[1]]).view(-1)

    def score(self, model, z, pairs):
        return self.layer(z[pairs[0]] * z[pairs[1]]).view(-1)


class Study:
    """An object around a training, which holds a predictor."""

    def __init__(self, predictor) -> None:
        self.predictor, self.scale = predictor, 2.0

    def score(self, model, z, pairs):
        return self.predictor(z[pairs[0]] * z[pairs[1]]).view(-1)

    def inner(self, model, z, pairs):
        return self.scale * (z[pairs[0]] * z[pairs[1]]).sum(-1)

    def __call__(self, model, z, pairs):
        return self.score(model, z, pairs)


def scored(predictor, model, z, pairs):
    return predictor(z[pairs[0]] * z[pairs[1]]).view(-1)


def of_global(model, z, pairs):
    return GLOBAL(z[pairs[0]] * z[pairs[1]]).view(-1)


def encoder():
    torch.manual_seed(0)
    return pyg.SAGEConv(8, 4)


def enclosed(named):
    predictor = named
    return lambda model, z, pairs: predictor(z[pairs[0]] * z[pairs[1]]).view(-1)


#: The name in the warning, and a `decode`.
OUTSIDE = {
    "a closure": ("predictor", lambda: enclosed(nn.Linear(4, 1))),
    "a variable of the script": ("GLOBAL", lambda: of_global),
    "a function that it calls": ("GLOBAL", lambda: lambda model, z, pairs: of_global(model, z, pairs)),
    "a dictionary": (r"MADE\['kept'\]", lambda: lambda model, z, pairs: MADE["kept"](z[pairs[0]] * z[pairs[1]])[:, 0]),
    "a partial": ("0", lambda: functools.partial(scored, nn.Linear(4, 1))),
    "a module": ("Predictor", lambda: Predictor()),
    "a method of a module": ("self.layer", lambda: Predictor().score),
    "a method of an object": ("self.predictor", lambda: Study(nn.Linear(4, 1)).score),
    "an object that is called": ("self.predictor", lambda: Study(nn.Linear(4, 1))),
}


@pytest.mark.parametrize("how", OUTSIDE)
def test_a_predictor_beside_the_encoder_is_named(how) -> None:
    name, make = OUTSIDE[how]
    with pytest.warns(UserWarning, match=rf"'decode' runs '{name}' .*neither trained nor copied.*ModuleDict"):
        gu.unlearn(encoder(), links(), gu.ForgetEdges(count=3), "utu", "link_prediction", decode=make())


def quiet(task, model) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task.check_model(model)


def test_what_is_advised_is_quiet_and_trained() -> None:
    """The controls: a predictor inside the model, a frozen one, and an object whose method reads something else."""
    predictor, kept = nn.Linear(4, 1), Study(nn.Linear(4, 1))
    model = nn.ModuleDict({"encoder": encoder(), "predictor": predictor})
    optimizer, data = torch.optim.Adam(model.parameters(), lr=0.01), links()
    asked = {
        "call": lambda model, data: model["encoder"](data.x, data.edge_index),
        "decode": lambda model, z, pairs: model["predictor"](z[pairs[0]] * z[pairs[1]]).view(-1),
    }
    for _ in range(5):
        optimizer.zero_grad()
        logits = asked["decode"](model, asked["call"](model, data), data.edge_index)
        binary_cross_entropy_with_logits(logits, torch.ones_like(logits)).backward()
        optimizer.step()
    quiet(as_task("link_prediction", **asked), model)
    request, before = gu.ForgetEdges(count=3), copy.deepcopy(predictor.state_dict())
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*neither trained nor copied")
        result = gu.unlearn(
            model, data, request, "continued_training", "link_prediction", optimizer=optimizer, steps=3, **asked
        )
    assert not torch.equal(result.model["predictor"].weight, predictor.weight)
    assert torch.equal(predictor.weight, before["weight"])
    for decode in (enclosed(predictor.requires_grad_(False)), kept.inner):
        quiet(as_task("link_prediction", decode=decode), encoder())


def test_the_model_by_its_name_outside_is_no_argument() -> None:
    model = nn.ModuleDict({"encoder": encoder(), "predictor": nn.Linear(4, 1)})
    study = SimpleNamespace(model=model)
    for decode in (
        lambda _, z, pairs: model["predictor"](z[pairs[0]] * z[pairs[1]]).view(-1),
        lambda _, z, pairs: study.model["predictor"](z[pairs[0]] * z[pairs[1]]).view(-1),
    ):
        with pytest.warns(UserWarning, match="model' .*neither trained.* first argument, the copy"):
            as_task("link_prediction", decode=decode).check_model(model)


def test_a_head_that_call_runs_is_named_once() -> None:
    head, data = nn.Linear(4, 3), blocks()
    data.x = data.x[:, :1].repeat(1, 8)
    with pytest.warns(UserWarning, match="'call' runs 'head'") as said:
        gu.train(encoder(), data, "node_classification", epochs=2, call=lambda m, d: head(m(d.x, d.edge_index)))
    assert sum("'call' runs" in str(one.message) for one in said) == 1
