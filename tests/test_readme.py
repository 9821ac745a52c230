"""The generated tables of README and docs are fresh, and the examples run as printed, with fewer epochs."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import gunlearn as gu
from gunlearn.report import estimators_table, figures_table, losses_table, methods_table
from tests.conftest import REPOSITORY

README = REPOSITORY / "README.md"
INFLUENCE = REPOSITORY / "docs" / "influence.md"
METHODS = REPOSITORY / "docs" / "methods.md"
METRICS = REPOSITORY / "docs" / "metrics.md"
TABLES = [
    ("methods", methods_table, README),
    ("losses", losses_table, README),
    ("estimators", estimators_table, README),
    ("estimators", estimators_table, INFLUENCE),
    ("figures", figures_table, METRICS),
]


@pytest.mark.parametrize(("name", "table", "file"), TABLES)
def test_generated_tables_are_not_stale(name: str, table, file: Path) -> None:
    committed = re.search(rf"<!-- table:{name} -->\n(.*?)<!-- end -->", file.read_text(), re.S)[1]
    assert committed.strip() == table().strip(), "run: python docs/fill_readme.py"


def executed(file: Path, word: str = "", **names: Any) -> dict[str, Any]:
    """What the file's examples that hold `word` define, run one after the other."""
    blocks = [code for code in re.findall(r"```python\n(.*?)```", file.read_text(), re.S) if word in code]
    assert blocks
    for code in blocks:
        few = re.sub(r"\bepochs=(100|200)\b", lambda match: f"epochs={int(match[1]) // 10}", code)
        exec(compile(few, file.name, "exec"), names)
    return names


def test_the_first_example(tmp_path, monkeypatch) -> None:
    """On a model the package did not write."""
    monkeypatch.chdir(tmp_path)
    names = executed(README, "report.html")
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert names["table"]["js_floor_forget"] > 0


def test_node_requests(capsys) -> None:
    executed(README, "ForgetSubgraph", gu=gu, torch=torch)
    printed = capsys.readouterr().out
    assert "'auto' chose 'continued_training', because the training had not settled" in printed
    assert "MIA AUC" in printed


def test_items() -> None:
    names = executed(REPOSITORY / "docs" / "requests.md", "ForgetItems")
    assert names["result"].num_forget == 20


def test_pieces() -> None:
    data = gu.load("karate")
    model = gu.GCN(data.num_features)
    names = executed(
        README, "removed_edges", gu=gu, data=data, model=model, edge_index_to_remove=data.edge_index[:, :2]
    )
    assert names["scores"].shape == (34,)
    assert names["z"].equal(model(data.x, data.edge_index[:, 2:]))


def test_readme_on_influence() -> None:
    data = gu.link_split(gu.load("karate"), 0.1, 0.1)
    names = executed(README, "influence_study", gu=gu, data=data, model=gu.GCN(data.num_features))
    assert names["study"]["exact"]["spearman"] == pytest.approx(1)


def test_influence(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = executed(INFLUENCE)
    assert (tmp_path / "runs" / "mine" / "influence.html").stat().st_size > 10_000
    assert names["scores"].shape == (names["data"].num_edges,)


def test_nearest_to_retraining() -> None:
    names = executed(METHODS, "training=base")
    assert names["result"].notes["start"] == "estimated second moments"
    names = executed(METHODS, "KeepState", **names)
    assert (names["result"].notes["chosen"], names["keeping"].taken) == ("continued_training", 100)


def test_figures(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert 0 < executed(METRICS)["table"]["certainty"] < 1
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "evaluation.json", "evaluation.csv"}
