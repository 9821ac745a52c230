"""The committed rows of experiments/mode_connectivity hold what paths between unlearned models are to reach."""

import copy
import json
from itertools import pairwise
from statistics import mean
from typing import Any

import pytest

from tests.answers import check_said, check_unsaid, page
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


#: A curve without the forgetting term, with it, and what that does to the retained loss in the middle.
TERMS = {
    "digits": ("curve from the original", "the same, forgetting a little"),
    "cora": ("long curve from the original", "long, forgetting a little"),
}
MEMORY, UNCHANGED = 0.02, 0.1  # the most that a curve remembers; the largest relative rise of the retained loss


def terms(part: str, without: str, term: str) -> tuple[list[float], list[float], list[float]]:
    """Memory in the middle of curves without and with a forgetting term; relative rises of the retained loss."""
    pairs = list(zip(*(rows(part, f"scrub, scrub: {name}") for name in (without, term)), strict=True))
    assert all(a["seed"] == b["seed"] for a, b in pairs)
    rises = [b["middle_loss_retain"] / a["middle_loss_retain"] - 1 for a, b in pairs]
    return [a["middle_forget_acc"] for a, _ in pairs], [b["middle_forget_acc"] for _, b in pairs], rises


@pytest.mark.parametrize("part", LINES)
def test_the_forgetting_term_takes_memory_out_of_the_middle_at_an_unchanged_retained_loss(part: str) -> None:
    plain, kept, rises = terms(part, *TERMS[part])
    assert min(plain) > MEMORY >= max(kept)
    assert max(rises) <= UNCHANGED
    plain, kept, rises = terms(part, "curve from the original", "the same, forgetting")
    assert min(plain) > MEMORY >= max(kept)
    assert min(rises) > UNCHANGED  # control: a larger weight has a price


def said_of_terms() -> list[str]:
    """What README.md says of the price."""
    found = {part: terms(part, "curve from the original", "the same, forgetting") for part in LINES}
    shares = {part: f"{100 * min(rises):.0f} to {100 * max(rises):.0f} %" for part, (_, _, rises) in found.items()}
    memory = [value for _, kept, _ in found.values() for value in kept]
    digits, cora = (terms(part, *TERMS[part]) for part in LINES)
    short = terms("cora", "curve from the original", "the same, forgetting a little")[1]
    return [
        f"Memory falls to {min(memory):.3f} to {max(memory):.3f} with a tenth",
        f"rises by {shares['digits']} on digits and by {shares['cora']} on Cora",
        f"memory {max(digits[1]):.3f}, retained loss {100 * min(digits[2]):.0f} to {100 * max(digits[2]):.0f} % higher",
        f"(memory {min(short):.2f} to {max(short):.2f})",
        f"memory {max(cora[1]):.3f} (without the term {min(cora[0]):.3f} to {max(cora[0]):.3f}), retained loss "
        f"from {-100 * min(cora[2]):.0f} % lower to {100 * max(cora[2]):.0f} % higher",
    ]


def test_the_price_of_the_term_is_said_as_the_rows_say() -> None:
    text = page("mode_connectivity")
    check_said(said_of_terms(), text)


def test_other_rows_make_the_sentences_on_the_price_false(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: curves with a term have twice the loss and remember more."""
    changed = copy.deepcopy(ROWS)
    for row in changed:
        if "forgetting" in row.get("pair", ""):
            row |= {
                "middle_loss_retain": 2 * row["middle_loss_retain"],
                "middle_forget_acc": row["middle_forget_acc"] + 0.1,
            }
    monkeypatch.setattr("tests.test_mode_connectivity.ROWS", changed)
    check_unsaid(said_of_terms(), page("mode_connectivity"))


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


def test_the_committed_seconds_are_within_what_is_asked() -> None:
    """Of one run on DBLP, without retrained references and attacks; nothing is timed here."""
    (row,) = [row for row in ROWS if row["part"] == "speed"]
    assert row["evaluation"] < 30
    assert row["curve"] < 180
