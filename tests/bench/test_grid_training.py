"""Methods that go on with a training, or back in it, get that of the grid's base model."""

import json
from pathlib import Path
from typing import Any

import pytest

import gunlearn as gu
from gunlearn.bench import Recipe
from gunlearn.bench.grid import threads
from tests.bench.cases import MEASURED, row_of
from tests.command import call

SETTINGS = "--dataset karate --count 11 --epochs 100 --hidden-channels 8 --out-channels 4 --threads 1 --no-progress"
LINKS = {"lr": 1e-3}
NODES = {"lr": 1e-2, "weight_decay": 5e-4}


@pytest.mark.parametrize(
    ("task", "forget", "recipe"),
    [
        ("link_prediction", gu.ForgetEdges(count=11, seed=0), LINKS),
        ("node_classification", gu.ForgetNodes(count=11, seed=0), NODES),
    ],
)
def test_the_command_gives_what_the_api_gives(task: str, forget: Any, recipe: dict[str, float], tmp_path: Path) -> None:
    """Control: the same method without the training ends elsewhere, or refuses."""
    split, kind = (gu.link_split, "edges") if task == "link_prediction" else (gu.node_split, "nodes")
    asked = ["--task", task, "--forget", kind, "--methods", "auto", "replay", "continued_training:default"]
    assert call("run", *SETTINGS.split(), *asked, "--out", str(tmp_path)) == 0
    rows = json.loads((tmp_path / "results.json").read_text())
    with threads(1):
        data = split(gu.load("karate"), seed=0)
        new = Recipe(hidden_channels=8, out_channels=4).model(data, 0, task)
        base = gu.train(new, data, task, epochs=100, **recipe)
        told, bare = {}, gu.evaluate(gu.unlearn(base.model, data, forget, "auto", task))
        for method in ("auto", "replay", "continued_training"):
            result, row = gu.unlearn(base.model, data, forget, method, task, training=base), row_of(rows, method)
            own = told[method] = gu.evaluate(result)
            figures = {name: own[name] for name in own if own[name] is not None and name not in MEASURED}
            assert "forget_prob" in figures
            assert {name: row[name] for name in figures} == pytest.approx(figures, rel=1e-5)
            assert row["epochs"] == result.epochs
            assert row["notes"].get("why") == result.notes.get("why")
    notes = row_of(rows, "auto")["notes"]
    assert notes["chosen"] == "replay"
    assert ("left out" in notes["why"]) is (kind == "nodes")  # a teacher of 11 steps
    assert told["auto"]["forget_prob"] != pytest.approx(bare["forget_prob"], rel=1e-3)
