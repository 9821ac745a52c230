"""What every estimator must do: all cases on one model, one case of each estimator on all models that users bring."""

import dataclasses
import inspect

import pytest
import torch
from torch import nn

from gunlearn.attribution import ESTIMATORS, Estimator
from gunlearn.errors import GunlearnError, InvalidInputError, UnsupportedModelError
from gunlearn.testing import data_snapshot, equal, model_snapshot, random_snapshot
from tests.attribution import cases
from tests.attribution.cases import CASES, MODELS, fresh, karate, scores, some_items, trained, usual
from tests.attribution.removal import directed, held_out

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # a few epochs are no training
per_case = pytest.mark.parametrize("case", CASES, ids=str)
per_estimator = pytest.mark.parametrize("name", ESTIMATORS)
ONCE = {name: next(case for case in CASES if case.estimator == name) for name in ESTIMATORS}
VALUE = [next(case for case in CASES if case.estimator == name and case.target == "loss")
         for name, cls in ESTIMATORS.items() if "value" in cls.targets and name != "random"]  # fmt: skip
ON_MODELS = [(case, "sage") for case in CASES] + [(c, m) for m in MODELS if m != "sage" for c in ONCE.values()]


def close(one, other):
    """Within a ten-thousandth of the largest score: sums in another order, linear systems solved to a residual."""
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize(("case", "model"), ON_MODELS, ids=str)
def test_one_finite_score_per_item_whatever_the_order(case, model):
    found, data = usual(case, model), karate()
    if found is None:
        pytest.skip("the estimator refuses such a model")
    items = some_items(data, case.of)
    assert found.shape == (items.size(-1),)
    assert found.is_floating_point()
    assert torch.isfinite(found).all()
    assert found.unique().numel() > 1
    if case.target == "probabilities":
        assert (found >= 0).all()
    if case.of == "edges":
        assert found[0] == found[-1]  # the other direction of the same edge
    order = torch.randperm(items.size(-1), generator=torch.Generator().manual_seed(1))
    close(scores(case, trained(model), data, items=items[..., order]), found[order])


@per_case
def test_order_of_the_columns_says_nothing(case):
    data, shuffled = karate(), karate()
    order = torch.randperm(data.num_edges, generator=torch.Generator().manual_seed(1))
    shuffled.edge_index = data.edge_index[:, order]
    close(scores(case, trained("sage"), shuffled, items=some_items(data, case.of)), usual(case, "sage"))


@per_estimator
def test_all_edges_are_the_default(name):
    case, model, data = ONCE[name], trained("gcn"), karate()
    if case.of != "edges":
        pytest.skip("no estimator of edges")
    found = scores(case, model, data, items=None)
    assert found.shape == (data.num_edges,)
    both = {(u, v): score for (u, v), score in zip(data.edge_index.t().tolist(), found.tolist(), strict=True)}
    assert all(both[v, u] == score for (u, v), score in both.items())


def hostile(name):
    """A trained model in an untidy state: training mode, a frozen parameter, left-over gradients, a hook."""
    model = trained(name).train()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    next(model.parameters()).requires_grad_(False)
    model.convs[0].register_forward_hook(no_op)
    return model


def no_op(*args):
    """A hook of the caller's."""


@per_case
def test_nothing_of_the_callers_is_touched(case):
    model, data = hostile("sage"), karate()
    before = model_snapshot(model), data_snapshot(data), random_snapshot()
    scores(case, model, data)
    assert equal(before, (model_snapshot(model), data_snapshot(data), random_snapshot()))


class Breaks(nn.Module):
    """Breaks at the `at`-th pass, in any copy."""

    calls = 0
    at = 2

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, edge_index):
        Breaks.calls += 1
        if Breaks.calls == Breaks.at:
            raise RuntimeError("broken")
        return self.inner(x, edge_index)


@pytest.mark.parametrize("at", [2, 4])
@pytest.mark.parametrize("case", ONCE.values(), ids=str)
def test_nothing_is_left_behind_after_a_failure(case, at, monkeypatch):
    model, data = Breaks(trained("gcn")), karate()
    monkeypatch.setattr(Breaks, "calls", 0)
    monkeypatch.setattr(Breaks, "at", at)
    before = model_snapshot(model), data_snapshot(data), random_snapshot()
    try:
        scores(case, model, data)
    except (RuntimeError, GunlearnError):
        assert Breaks.calls >= at
    assert equal(before, (model_snapshot(model), data_snapshot(data), random_snapshot()))
    monkeypatch.setattr(Breaks, "at", 0)
    close(scores(case, model, data), usual(case, "gcn"))  # and the next call knows nothing of it


@per_estimator
def test_dropout_and_running_averages_stand_still(name):
    case = ONCE[name]
    name = "gat" if usual(case, "gat") is not None else "sage"
    model = trained(name).train()
    model.dropout.p = 0.9
    close(scores(case, model, karate()), usual(case, name))


@per_case
def test_same_seed_same_bits_in_any_gradient_mode(case):
    torch.rand(5)
    with torch.no_grad():
        assert scores(case, trained("sage"), karate()).equal(usual(case, "sage"))


def test_random_scores_follow_the_seed():
    """The control of the test above: an estimator that is nothing but its seed."""
    assert not scores(ONCE["random"], trained("sage"), karate(), seed=4).equal(usual(ONCE["random"], "sage"))


@per_case
def test_awkward_graphs(case):
    """Directed, with self-loops, copies, nodes without edges and with a single one."""
    data = held_out(directed())
    found = scores(case, fresh("gcn", data), data)
    assert torch.isfinite(found).all()


@per_case
def test_sparse_features_are_the_same_features(case):
    sparse = karate()
    sparse.x = sparse.x.to_sparse_csr()
    close(scores(case, trained("gcn"), sparse), usual(case, "gcn"))


@pytest.mark.parametrize("case", VALUE, ids=str)
def test_functions_of_the_outputs(case):
    """One that the model moves, one that it does not, and one that is no number."""
    assert scores(case, trained("gcn"), karate(), target=lambda z: z.square().mean()).any()
    assert not scores(case, trained("gcn"), karate(), target=lambda z: torch.ones(())).any()
    with pytest.raises(InvalidInputError, match="finite"):
        scores(case, trained("gcn"), karate(), target=lambda z: z.sum() * float("nan"))


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (lambda z: z.sum() / 0, "finite"),
        (lambda z: z.sum(dim=1), "scalar"),
        (lambda z: 1.0, "scalar"),
        (lambda z: None, "scalar"),
    ],
)
def test_targets_that_are_no_number(target, words):
    with pytest.raises(InvalidInputError, match=words):
        scores(VALUE[0], trained("gcn"), karate(), target=target)


def test_a_model_without_message_passing():
    with pytest.raises(UnsupportedModelError, match="MessagePassing"):
        scores(ONCE["exact"], nn.Linear(34, 4).double(), karate())


@per_estimator
def test_unknown_options_are_refused(name):
    with pytest.raises(InvalidInputError, match="options"):
        scores(ONCE[name], trained("gcn"), karate(), no_such_option=1)


@per_estimator
def test_what_it_cannot_do_is_refused_with_the_reason(name):
    cls = ESTIMATORS[name]
    for of in {"edges", "nodes", "features"} - set(cls.of):
        with pytest.raises(GunlearnError, match=name):
            scores(cases.EstimatorCase(name, of, ONCE[name].target), trained("gcn"), karate())
    for kind, target in {"distance": "embeddings", "value": "loss"}.items():
        if kind not in cls.targets:
            with pytest.raises(GunlearnError, match=name):
                scores(ONCE[name], trained("gcn"), karate(), target=target)


def test_every_estimator_is_registered_and_described():
    def leaves(cls: type) -> set[type]:
        below = set().union(*(leaves(sub) for sub in cls.__subclasses__()), set())
        own = {cls} if cls.__module__.startswith("gunlearn.") and "name" in vars(cls) else set()
        return own | below

    assert leaves(Estimator) == set(ESTIMATORS.values())
    assert set(cases.OPTIONS) <= set(ESTIMATORS)
    for name, cls in ESTIMATORS.items():
        assert name == cls.name
        assert cls.summary
        assert cls.cost
        assert cls.question in ("removal", "training")
        assert cls.of
        assert set(cls.targets) <= {"distance", "value"}
        assert dataclasses.is_dataclass(cls)
        assert cls.__dataclass_params__.frozen
        for option in cls.options():
            assert option in inspect.getdoc(cls), f"{name}: {option} is not described"
