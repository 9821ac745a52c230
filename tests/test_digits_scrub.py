"""The committed results of experiments/digits_scrub hold what SCRUB and IMU are to reach; controls do not."""

from statistics import mean
from typing import Any

import pytest

from experiments.digits_scrub.tables import cell, tables
from tests.conftest import committed


def rows(part: str, method: str) -> list[dict[str, Any]]:
    found = [row for row in committed("digits_scrub") if (row["part"], row.get("method")) == (part, method)]
    assert len({row["seed"] for row in found}) >= SEEDS[part]
    return found


#: How many seeds the committed rows have at least.
SEEDS = {"class": 3, "confusion": 1, "privacy": 2, "lira": 1}


@pytest.mark.parametrize("method", ["scrub T=1", "scrub T=2", "scrub:small"])
def test_a_class_is_forgotten(method: str) -> None:
    for row in rows("class", method):
        assert row["forget_error"] >= 0.9
        assert row["retain_error"] <= 0.02
    assert mean(row["forget_error"] for row in rows("class", "finetune")) <= 0.3  # 0.36 under one seed


@pytest.mark.parametrize("method", ["scrub T=1 alpha=.5", "scrub T=1 alpha=.001", "scrub:ic_small"])
def test_confusion_is_resolved(method: str) -> None:
    found, original = (mean(row["ic_err"] for row in rows("confusion", name)) for name in (method, "original"))
    assert found <= original / 1.5


def test_an_attack_finds_what_was_learned_by_heart_but_not_after_scrub() -> None:
    attack = {
        name: mean(row["mia_acc"] for row in rows("privacy", name))
        for name in ("original", "retrain", "finetune", "scrub T=1 msteps=10")
    }
    assert min(attack["original"], attack["finetune"]) > attack["retrain"] + 0.1  # finetuning is no defence
    assert attack["scrub T=1 msteps=10"] <= attack["retrain"] + 0.05


def test_thresholds_per_item_are_stronger() -> None:
    for name in ("original", "finetune", "scrub"):
        for row in rows("lira", name):
            assert row["auc"] > row["global_auc"] + 0.03


def test_cells_and_tables() -> None:
    assert cell([{"a": 1.0}, {"a": 3.0}], "a") == "2.000 ± 1.414"
    assert cell([{}, {"steps": 3}], "steps") == "3"
    assert cell([{}], "a") == "-"
    refused = {"part": "class", "seed": 0, "method": "x", "error": "no"}
    assert "| x | - | - | - | - | - | 1 | 1 refused |" in tables([refused])["class"]
