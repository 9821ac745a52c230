"""Methods for linear heads take requests of every kind."""

from __future__ import annotations

import pytest

import gunlearn as gu
from tests.methods.cases import HEAD_CASES, MethodCase, make_data, run, same_weights, trained_model


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
def test_requests_of_every_kind(case: MethodCase, request_: gu.Request) -> None:
    model, data = trained_model(case.head), make_data()
    result = run(case, model, data, request_)
    changed = not same_weights(result.model, model)
    assert changed or case.method == "graph_editor"  # of which an isolated test node changes nothing
    assert result.notes.get("certificate", {}).get("status", "certified") in ("certified", "retrained")
    assert result.mode == case.variant
