"""Copies of features on a model: made new from what is left, or named."""

import copy
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.core.digest import content_hash
from tests.tasks.test_node_state import TASK, Rows, graph

N = 30
X = torch.randn(N, 8, generator=torch.Generator().manual_seed(1))
GONE, COLUMNS = [3, 11], [1, 5]
PROPAGATED = graph(X).edge_index.new_zeros(N, N).index_put(tuple(graph(X).edge_index), torch.tensor(1)).float() @ X
ORDER = torch.randperm(8, generator=torch.Generator().manual_seed(0))

#: What is kept, made from features; how it comes to the model; how it is read from it.
PLACES = {
    "a buffer": (lambda model, kept: model.register_buffer("own", kept), lambda model: model.own),
    "an attribute": (lambda model, kept: setattr(model, "own", kept), lambda model: model.own),
    "a frozen table": (
        lambda model, kept: setattr(model, "own", nn.Embedding.from_pretrained(kept)), lambda model: model.own.weight,
    ),
    "an array": (
        lambda model, kept: setattr(model, "own", kept.numpy().copy()), lambda model: torch.from_numpy(model.own),
    ),
    "an object": (
        lambda model, kept: setattr(model, "own", SimpleNamespace(x=kept)), lambda model: model.own.x,
    ),
    "a list": (lambda model, kept: setattr(model, "own", [kept]), lambda model: model.own[0]),
    "a dictionary": (lambda model, kept: setattr(model, "own", {"x": kept}), lambda model: model.own["x"]),
    "a graph": (lambda model, kept: setattr(model, "own", Data(x=kept)), lambda model: model.own.x),
    "rows by node": (
        lambda model, kept: setattr(model, "own", dict(enumerate(kept.clone()))),
        lambda model: torch.stack([model.own[node] for node in range(N)]),
    ),
}  # fmt: skip
#: What a copy is of features `[N, 8]`; statistics stay those of all nodes.
FORMS = {
    "as they are": lambda x: x.clone(),
    "half precision": lambda x: x.half(),
    "turned": lambda x: x.t().contiguous(),
    "standardised": lambda x: (x - X.mean(0)) / X.std(0),
    "scaled rows": lambda x: x / X.norm(dim=1, keepdim=True),
    "other columns": lambda x: torch.cat([torch.ones(N, 1), x[:, ORDER[:6]]], dim=1),
}


def keeping(place: str, form: str):
    model = Rows(lambda m, x: x)
    PLACES[place][0](model, FORMS[form](X))
    return model


@pytest.mark.parametrize(
    ("place", "form"), [*((place, "as they are") for place in PLACES), *(("a buffer", form) for form in FORMS)]
)
@pytest.mark.parametrize("columns", [None, COLUMNS])
def test_a_copy_is_made_from_the_features_that_are_left(place: str, form: str, columns) -> None:
    model, data = keeping(place, form), graph(X)
    before = content_hash(PLACES[place][1](model))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        result = gu.unlearn(model, data, gu.ForgetFeatures(GONE, columns=columns), "utu", TASK)
    expected = FORMS[form](result.data.x)
    assert not torch.equal(result.data.x, X)
    torch.testing.assert_close(PLACES[place][1](result.model), expected, rtol=2e-3, atol=2e-3)
    assert not torch.equal(expected, FORMS[form](X))
    assert any(name.startswith("own") for name in result.notes["reset"])
    assert content_hash(PLACES[place][1](model)) == before  # the caller's own


@pytest.mark.parametrize("place", ["a list", "a graph"])
def test_copies_in_collections_lose_forgotten_nodes_too(place: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        result = gu.unlearn(keeping(place, "as they are"), graph(X), gu.ForgetNodes(GONE), "utu", TASK)
    assert torch.equal(PLACES[place][1](result.model), result.data.x)


def test_values_computed_from_features_are_named_and_others_are_not() -> None:
    for kept, said in ((PROPAGATED, True), (torch.arange(N), False), (torch.zeros(N, 8), False), (X[:9], False)):
        model = Rows(lambda m, x: x)
        model.register_buffer("own", kept.clone())
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            result = gu.unlearn(model, graph(X), gu.ForgetFeatures(GONE), "utu", TASK)
        assert [one for one in seen if "'own': values by node" in str(one.message)] if said else not seen
        assert torch.equal(result.model.own, kept)


def test_a_table_that_was_trained_from_features_is_named_and_a_learned_one_is_not() -> None:
    noise = torch.randn(N, 8, generator=torch.Generator().manual_seed(3))
    for weight, said in ((X + 0.1 * noise, True), (noise, False)):
        model = Rows(lambda m, x: x, table=nn.Embedding.from_pretrained(weight, freeze=False))
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            gu.unlearn(model, graph(X), gu.ForgetFeatures(GONE), "utu", TASK)
        assert bool([one for one in seen if "'table.weight': values by node" in str(one.message)]) == said


def test_a_model_that_is_trained_anew_is_warned_of_copies() -> None:
    model = keeping("an attribute", "as they are")
    with pytest.warns(UserWarning, match="keeps copies of forgotten features in 'own', which new weights"):
        gu.unlearn(model, graph(X), gu.ForgetFeatures(GONE), "retrain", TASK, epochs=1)


def test_sparse_features_and_an_earlier_state_are_found() -> None:
    x = X * (X.abs() > 1)
    data = graph(x.to_sparse_csr())
    model = Rows(lambda m, x: x.to_dense())
    model.own = x.clone()
    model.kept = copy.deepcopy(model.state_dict())
    with pytest.warns(UserWarning, match=r"'kept' \(an earlier state of the model\)"):
        result = gu.unlearn(model, data, gu.ForgetFeatures(GONE), "utu", TASK)
    assert torch.equal(result.model.own, result.data.x.to_dense())
