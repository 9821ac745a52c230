"""The contract of every method, for those that take linear heads alone."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.methods import METHODS, Method
from tests.methods import test_method_contract as contract
from tests.methods.cases import HEAD_CASES, MethodCase, make_data, run, same_weights, trained_model

per_case = pytest.mark.parametrize("case", HEAD_CASES, ids=str)


def head(case: MethodCase) -> str:
    return "least_squares_head" if case.method == "graph_editor" else "logistic_head"


@per_case
def test_the_callers_model_data_and_random_state_are_untouched(case: MethodCase) -> None:
    contract.test_the_callers_model_data_and_random_state_are_untouched(case, head(case))


@per_case
def test_untouched_when_the_method_raises(case: MethodCase, monkeypatch: pytest.MonkeyPatch) -> None:
    cls = METHODS[case.method]
    original = cls.run

    def broken(self: Method, problem: Any) -> None:
        original(self, problem)
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(cls, "run", broken)

    def run_it(model: nn.Module, data: Data) -> None:
        with pytest.raises(RuntimeError, match="on purpose"):
            run(case, model, data)

    contract.check_untouched(case, head(case), run_it)


@per_case
def test_seeds(case: MethodCase) -> None:
    contract.test_seeds(case, head(case))


@per_case
def test_saved_and_loaded(case: MethodCase, tmp_path: Any) -> None:
    contract.test_saved_and_loaded(case, head(case), tmp_path)


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
@per_case
def test_requests_of_every_kind(case: MethodCase, request_: gu.Request) -> None:
    model, data = trained_model(head(case)), make_data()
    result = run(case, model, data, request_)
    changed = not same_weights(result.model, model)
    assert changed or case.method == "graph_editor"  # of which an isolated test node changes nothing
    assert result.notes.get("certificate", {}).get("status", "certified") in ("certified", "retrained")
    assert result.mode == case.variant
