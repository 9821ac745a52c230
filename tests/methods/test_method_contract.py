"""What every method must do, run over all rows of the case table and models that users bring."""

import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gunlearn as gu
from gunlearn.losses import NLL, KLToReference, as_objective
from gunlearn.methods import METHODS, Method
from gunlearn.testing import (
    MethodCase,
    MethodContract,
    SmallProblem,
    data_snapshot,
    equal,
    model_snapshot,
    random_snapshot,
    untidy,
)
from tests.methods.cases import (
    CASES,
    HEAD_CASES,
    MODELS,
    SHARD_CASES,
    STATE_CASES,
    TRAINING,
    fresh_model,
    make_data,
    registered_specs,
    run,
    same_weights,
    trained_model,
    weights,
)
from tests.training.callbacks import On

CONTRACT = [*CASES, *HEAD_CASES]
per_case = pytest.mark.parametrize("case", CASES, ids=str)
per_training_case = pytest.mark.parametrize("case", TRAINING, ids=str)
# A few steps of a paper's settings may do harm, and say so.
pytestmark = pytest.mark.filterwarnings("ignore:.* of the training nodes that stay are predicted otherwise")


def test_every_registered_method_and_variant_has_a_row() -> None:
    assert sorted(case.spec for case in [*CONTRACT, *SHARD_CASES, *STATE_CASES]) == sorted(registered_specs())


def test_every_method_of_the_package_is_registered() -> None:
    def leaves(cls: type) -> set[type]:
        below = set().union(*(leaves(sub) for sub in cls.__subclasses__()), set())
        own = {cls} if cls.__module__.startswith("gunlearn.") and "name" in vars(cls) else set()
        return own | below

    registered = set(METHODS.values())  # loads them all
    assert leaves(Method) - {Method} == registered
    assert all(name == cls.name and cls.summary and cls.cost for name, cls in METHODS.items())


def test_snapshots_notice_what_they_should() -> None:
    model, data = untidy(trained_model("sage")), make_data()
    for spoil in (
        lambda: next(model.parameters()).data.add_(1),
        lambda: model.eval(),
        lambda: model.zero_grad(),
        lambda: model.requires_grad_(True),
        lambda: model.norm.running_mean.add_(1),
        lambda: model.register_forward_hook(print),
        lambda: setattr(model, "cache", 1),
    ):
        before = model_snapshot(model)
        assert equal(before, model_snapshot(model))
        spoil()
        assert not equal(before, model_snapshot(model))
    before = data_snapshot(data)
    data.x.requires_grad_()
    assert not equal(before, data_snapshot(data))
    before = random_snapshot()
    random.random()
    assert not equal(before, random_snapshot())


# Each method on some model, each model with some methods.
PAIRS = [(case, case.head or list(MODELS)[i % len(MODELS)]) for i, case in enumerate(CONTRACT)]
PAIRS += [(case, name) for case in CASES if case.spec in ("npo:default", "etr:default") for name in MODELS]


@dataclass(frozen=True)
class Problem(SmallProblem):
    """One of the models of `cases.py`, on the graph there."""

    name: str = ""

    def model(self, seed: int = 0, epochs: int | None = None) -> nn.Module:
        return fresh_model(self.name, seed) if epochs == 0 else trained_model(self.name)


def contract_of(case: MethodCase, name: str, request: gu.Request | None = None) -> MethodContract:
    contract = MethodContract()
    contract.case = case
    request = request or gu.ForgetEdges(count=12, seed=3)
    contract.problem = Problem(case.task, nn.Identity, make_data, request, name=name)
    return contract


class TestContract(MethodContract):
    @pytest.fixture(autouse=True, params=PAIRS, ids=lambda pair: f"{pair[0]}-{pair[1]}")
    def _each(self, request: pytest.FixtureRequest) -> None:
        self.case, self.problem = request.param[0], contract_of(*request.param).problem


def test_untouched_by_a_request_that_asks_for_influence() -> None:
    contract = contract_of(MethodCase("utu"), "gat", gu.ForgetEdges(count=3, by="influence"))
    contract.untouched(lambda model, data: contract.run(model, data))


@per_case
def test_what_is_random_without_dropout(case: MethodCase) -> None:
    one, other = (run(case, trained_model("gcn"), make_data(), seed=seed) for seed in (1, 2))
    assert (same_weights(one.model, other.model) and one.history == other.history) != case.random


@per_case
def test_epochs_are_counted(case: MethodCase) -> None:
    result = run(case, trained_model("gcn"), make_data(), seed=4)
    assert result.epochs == case.passes * case.options.get("epochs", 0) == len(result.history)
    assert result.peak_memory_mb is None or result.peak_memory_mb > 0


def built(case: MethodCase) -> Method:
    return METHODS[case.method](**{**METHODS[case.method].variants[case.variant], **case.options})


def test_modes_tell_variants_apart() -> None:
    labels = [(case.method, built(case).label) for case in CASES]
    assert len(set(labels)) == len(labels)
    assert all(label for _, label in labels)


@per_training_case
def test_the_last_epoch_counts_and_its_record_has_every_term(case: MethodCase) -> None:
    last: list[dict[str, Tensor]] = []
    watch = On(epoch_end=lambda model, **_: last.append(weights(model)))
    result = run(case, trained_model("gcn"), make_data(), callbacks=[watch])
    if not case.chooses:  # no epoch is chosen on figures of the validation, test or forget set
        found = result.model.state_dict()
        assert all(torch.equal(found[name], value) for name, value in last[-1].items() if name in found)
        assert any(not torch.equal(value, last[-2][name]) for name, value in last[-1].items())
    method = built(case)
    assert [record["epoch"] for record in result.history] == [1, 2, 3, 4]
    for epoch, record in enumerate(result.history):
        # A method in phases has other terms at other steps.
        objective = as_objective(NLL(on="retain")) if case.method == "retrain" else method.objective()
        if hasattr(method, "objective_at"):
            objective = method.objective_at(epoch)
        if case.method == "continued_training":  # draws forgotten edges to unseen scores
            objective = objective + method.unseen_weight * KLToReference(on="forget")
        terms = {label: weight for (weight, _), label in zip(objective.terms, objective.labels, strict=True)}
        assert set(record) - {"val_loss"} == {"epoch", "step", "loss"} | set(terms)
        assert all(np.isfinite(value) for value in record.values())
        assert record["loss"] == pytest.approx(
            sum(weight * record[label] for label, weight in terms.items()), rel=1e-4, abs=1e-5
        )


@pytest.mark.parametrize(
    "request_",
    [
        gu.ForgetNodes(ratio=0.5),
        gu.ForgetNodes(mask=make_data().y == 3),  # a whole class
        gu.ForgetNodes([63]),  # an isolated node
        gu.ForgetSubgraph([0]),
        gu.ForgetFeatures(ratio=0.3, columns=[1, 2]),
        gu.ForgetEdges(ratio=0.5),
        gu.ForgetNodes([1]) + gu.ForgetEdges(count=3) + gu.ForgetFeatures([4, 5]),
    ],
    ids=["half", "class", "isolated", "subgraph", "features", "edges", "sum"],
)
@pytest.mark.parametrize("case", HEAD_CASES, ids=str)
def test_linear_heads_forget_what_any_request_names(case: MethodCase, request_: gu.Request) -> None:
    model, data = trained_model(case.head), make_data()
    result = run(case, model, data, request_)
    changed = not same_weights(result.model, model)
    assert changed or case.method == "graph_editor"  # of which an isolated test node changes nothing
    assert result.notes.get("certificate", {}).get("status", "certified") in ("certified", "retrained")
    assert result.mode == case.variant
