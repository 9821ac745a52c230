"""Wrong and unusual calls end in an error of the package or in a finite result, and change nothing of the caller's."""

import pytest
import torch
from torch_geometric.data import Data

from experiments.fuzz.__main__ import is_fault
from experiments.fuzz.calls import CALLS, outcome, quiet


@pytest.mark.parametrize("function", CALLS)
@pytest.mark.parametrize("first", [0, pytest.param(40, marks=pytest.mark.slow)])
def test_no_call_ends_in_a_foreign_error(function: str, first: int) -> None:
    last = 40 if first == 0 else 1000
    with quiet():
        faults = [row for row in map(CALLS[function], range(first, last)) if is_fault(row)]
    assert not faults


def test_faults_are_found() -> None:  # control
    data, model = Data(x=torch.ones(2, 1)), torch.nn.Linear(1, 1)
    assert outcome(lambda: torch.tensor([float("nan")]), model, data)["ended"] == "NaN"
    assert outcome(lambda: 1 / 0, model, data)["ended"] == "unclear"
    assert outcome(lambda: data.x.zero_(), model, data)["changed"] == ["data.x"]
    assert outcome(lambda: torch.rand(1), model, data)["changed"] == ["torch's random state"]
    assert outcome(lambda: model.eval().bias, model, data)["changed"] == ["mode of "]
    assert outcome(lambda: torch.tensor(1.0), model, data)["changed"] == []
