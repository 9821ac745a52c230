"""The committed rows of the study of alignment say what its page says."""

import json
from statistics import median
from typing import Any

import pytest

from tests.conftest import REPOSITORY

ROWS = json.loads((REPOSITORY / "experiments/mode_connectivity/alignment.json").read_text(encoding="utf-8"))
PROBLEMS = sorted({(r["dataset"], r["backbone"]) for r in ROWS if r["layers"] == 2})


def barrier(problem: Any, by: str, child: str = "line", rescale: bool = False) -> float:
    found = [
        r["train_loss_barrier"]
        for r in ROWS
        if (r["dataset"], r["backbone"]) == problem
        and (r["layers"], r["by"], r["child"], r["rescale"]) == (2, by, child, rescale)
    ]
    assert len(found) >= 3, (problem, by, child)
    return median(found)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_weights_take_away_most_of_the_barrier_and_messages_no_more(problem: Any) -> None:
    none, weights = barrier(problem, "none"), barrier(problem, "weights")
    messages = barrier(problem, "messages", rescale=True)
    assert weights < 0.2 * none
    assert weights < messages < 0.2 * none
    assert barrier(problem, "none", "gnnmerge") < 0.02 < none


def test_every_graph_and_model_was_measured() -> None:
    assert {(d, b) for d in ("Cora", "DBLP", "CS") for b in ("gcn", "sage")} == set(PROBLEMS)
    assert max(r["difference"] for r in ROWS if "difference" in r) <= 1e-5
