"""The committed results of the studies of diffusion models hold what is promised; controls do not."""

from statistics import mean
from typing import Any

import pytest

from experiments.denoisers.tables import HEAD, by_turn, table
from tests.conftest import committed


def rows(model: str, study: str = "digits_diffusion", turn: int = 1) -> list[dict[str, Any]]:
    found = [row for row in committed(study)["rows"] if (row["model"], row["turn"]) == (model, turn)]
    assert len({row["seed"] for row in found}) >= (3 if study == "digits_diffusion" else 1)
    return found


@pytest.mark.parametrize("method", ["RL", "SalUn", "ESD"])
def test_a_digit_is_forgotten_and_the_others_kept(method: str) -> None:
    for figure in ("ua", "ira"):
        assert mean(row[figure] for row in rows(method)) >= 0.9
    assert mean(row["ua"] for row in rows("fine-tuning")) <= 0.1
    assert mean(row["ua"] for row in rows("original")) <= 0.1


def test_a_collapse_is_marked() -> None:
    for row in rows("GA"):
        assert row["warned"] == "collapse"
        assert row["ua"] >= 0.9
        assert row["ira"] < 0.5
    assert not any(row["warned"] for name in ("RL", "ESD", "fine-tuning") for row in rows(name))


@pytest.mark.parametrize("amnesia", ["SA", "SA, no penalty"])
def test_alignment_orders_amnesia_the_untouched_model_and_esd_in_every_seed(amnesia: str) -> None:
    """Intervals of the gain over the untouched model are over the same images of both."""
    for far, near, same in zip(rows(amnesia), rows("ESD, own samples"), rows("itself"), strict=True):
        assert far["alignment_forget_gain_high"] < 0 < near["alignment_forget_gain_low"]
        assert same["alignment_forget"] == 0
    for esd in ("ESD", "ESD, own samples"):
        values = [mean(row["alignment_forget"] for row in rows(m)) for m in (amnesia, "original", esd)]
        assert values == sorted(values, reverse=True)


def test_what_looks_forgotten_may_be_farther_from_retraining_than_the_untouched_model() -> None:
    assert all(row["alignment_forget_gain_high"] < 0 for row in rows("NPO"))
    assert min(mean(row[figure] for row in rows("NPO")) for figure in ("ua", "ira")) >= 0.9


def made(model: str, **figures: Any) -> dict[str, Any]:
    known = {"ua": 1.0, "ira": 0.95, "alignment_forget": 0.2, "alignment_forget_floor": 0.1, "seen": {"7": 0.0}}
    ends = {"alignment_forget_gain": 0.1, "alignment_forget_gain_low": 0.05, "alignment_forget_gain_high": 0.2}
    return {"model": model, "seed": 0, "turn": 1, **known, **ends, **figures}


def test_lines_and_verdicts() -> None:
    lower = {"alignment_forget_gain_low": -0.4, "alignment_forget_gain_high": -0.1}
    given = [
        made("original"), made("retrained 0"), made("retrained 1"), made("near"), made("near", seed=1, **lower),
        made("kept", ua=0.1), made("gone", ira=0.2, warned="collapse"), {"model": "no", "seed": 0, "error": "it said"},
        {"model": "itself", "seed": 0, "alignment_forget": 0.0}, {"model": "noise", "seed": 0, "broken": True},
    ]  # fmt: skip
    lines = {line.split(" | ")[0].strip("| "): line for line in table(given).splitlines()[2:]}
    assert list(lines) == ["original", "retrained", "near", "kept", "gone", "no", "noise"]
    assert lines["near"].endswith("looks forgotten, farther in 1 of 2, nearer in 1 of 2 |")
    assert lines["kept"].endswith("| nearer in 1 of 1 |")
    assert lines["gone"].endswith("| collapsed, nearer in 1 of 1 |")
    assert lines["no"].endswith("| refused: it said |")
    assert lines["noise"].endswith("| refused: draws NaN |")
    assert {len(line.split(" | ")) for line in lines.values()} == {len(HEAD)}
    assert "| 2.00 |" in lines["near"]  # in floors
    shown = by_turn([*given[:4], *({**row, "turn": 2, "seen": {"7": 0.25}} for row in given[:4])])
    assert shown["rebound"].splitlines()[-1] == "| near | 0.00 | 0.25 | +0.25 |"


@pytest.mark.parametrize("turn", [1, 2])
@pytest.mark.parametrize("method", ["RL", "SalUn", "ESD"])
def test_clothes_are_forgotten_one_class_after_the_other(method: str, turn: int) -> None:
    """The controls: fine-tuning forgets nothing, and ascent keeps nothing."""
    original, (row,) = rows("original", "fashion_diffusion", turn)[0], rows(method, "fashion_diffusion", turn)
    assert row["ua"] >= 0.9
    assert row["ira"] >= original["ira"] - 0.05
    assert row["alignment_forget_gain_low"] > 0
    assert max(row["seen"].values()) <= 0.1  # the first class does not come back
    assert rows("fine-tuning", "fashion_diffusion", turn)[0]["ua"] <= 0.1
    assert rows("GA", "fashion_diffusion", turn)[0]["ira"] < 0.5
    assert rows("itself", "fashion_diffusion", turn)[0]["alignment_forget"] == 0
