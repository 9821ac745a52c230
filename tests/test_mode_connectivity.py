"""The committed rows of experiments/mode_connectivity hold what paths between unlearned models are to reach."""

import json
from itertools import pairwise
from statistics import mean
from typing import Any

import pytest

from tests.conftest import REPOSITORY

ROWS = json.loads((REPOSITORY / "experiments" / "mode_connectivity" / "basins.json").read_text(encoding="utf-8"))
LINES = {"digits": 1.0, "cora": 0.15}  # nats that a straight line rises at least


def rows(part: str, pair: str) -> list[dict[str, Any]]:
    found = [row for row in ROWS if (row["part"], row.get("pair")) == (part, pair)]
    assert len({row["seed"] for row in found}) >= 3
    return found


@pytest.mark.parametrize("part", LINES)
def test_two_runs_share_a_valley_and_retraining_is_reached_by_a_curve(part: str) -> None:
    assert all(row["barrier_retain"] < 0.01 for row in rows(part, "scrub, scrub: line"))
    assert all(row["barrier_retain"] > LINES[part] for row in rows(part, "scrub, retrain: line"))  # control
    for row in rows(part, "scrub, retrain: curve"):
        assert row["barrier_retain"] < 0.15
        assert row["max_error_retain"] <= 0.05


@pytest.mark.parametrize("part", LINES)
def test_the_forgetting_term_takes_memory_out_of_the_middle(part: str) -> None:
    plain, kept = (rows(part, f"scrub, scrub: {name}") for name in ("curve from the original", "the same, forgetting"))
    assert mean(row["middle_forget_acc"] for row in plain) > 0.1  # control
    assert all(row["middle_forget_acc"] <= 0.02 for row in kept)
    changes = [b["middle_loss_retain"] - a["middle_loss_retain"] for a, b in zip(plain, kept, strict=True)]
    assert mean(changes) < 0.05


def test_memory_falls_from_the_original_model_on() -> None:
    for part in LINES:
        for row in rows(part, "original, scrub: line"):
            memory = row["forget_acc"]
            assert memory[0] > 0.9
            assert all(b <= a + 0.02 for a, b in pairwise(memory))


def test_unlearned_models_stay_where_the_original_is_and_retraining_is_elsewhere() -> None:
    """What between.md says first; the control is the line to a model from other weights."""
    found = json.loads((REPOSITORY / "experiments" / "mode_connectivity" / "between.json").read_text(encoding="utf-8"))
    nodes = [row for row in found if row["problem"] == "nodes"]
    retrained = {"same start", "retrain"}
    inside = [row["barrier_retain"] for row in nodes if row["kind"] == "line" and row["second"] not in retrained
              and row["first"] not in retrained]  # fmt: skip
    away = [row for row in nodes if (row.get("first"), row.get("second")) == ("original", "retrain")]
    barriers = {kind: [row["barrier_retain"] for row in away if row["kind"] == kind] for kind in ("line", "curve")}
    assert max(inside) < 0.1 < mean(barriers["line"])
    assert max(barriers["curve"]) < 0.1
    assert len({row["graph"] for row in away}) == 6


def test_it_is_fast() -> None:
    (row,) = [row for row in ROWS if row["part"] == "speed"]
    assert row["evaluation"] < 30
    assert row["curve"] < 180
