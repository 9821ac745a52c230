from __future__ import annotations

import re
from pathlib import Path

import pytest

from gunlearn.attribution import ESTIMATORS
from gunlearn.losses import LOSSES
from gunlearn.methods import METHODS
from gunlearn.metrics import FIGURES
from gunlearn.report import estimators_table, figures_table, losses_table, methods_table

README = Path(__file__).parent.parent / "README.md"
INFLUENCE = README.parent / "docs" / "influence.md"
METRICS = README.parent / "docs" / "metrics.md"
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


def test_everything_is_listed() -> None:
    for name in ESTIMATORS:
        assert re.search(rf"\| `?{name}`? ", estimators_table())
    for name in METHODS:
        assert re.search(rf"\| `?{name}`? ", methods_table())
    for name in LOSSES:
        assert re.search(rf"\| `?{name}`? ", losses_table())
    for name in FIGURES:
        assert re.search(rf"\| `?{name}`? ", figures_table())


def test_example_runs_as_printed(tmp_path, monkeypatch) -> None:
    """The README's example on a model the package did not write, with fewer epochs."""
    code = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)[0]
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    exec(compile(code.replace("epochs=200", "epochs=20"), "README.md", "exec"), namespace)
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert namespace["table"]["js_floor_forget"] > 0


def test_node_requests_run_as_printed(capsys) -> None:
    import torch

    import gunlearn as gu

    (code,) = (c for c in re.findall(r"```python\n(.*?)```", README.read_text(), re.S) if "ForgetSubgraph" in c)
    exec(compile(code.replace("epochs=200", "epochs=20"), "README.md", "exec"), {"gu": gu, "torch": torch})
    printed = capsys.readouterr().out
    assert "finetune classification" in printed
    assert "MIA AUC" in printed


def test_pieces_run_as_printed() -> None:
    import gunlearn as gu

    (code,) = (c for c in re.findall(r"```python\n(.*?)```", README.read_text(), re.S) if "removed_edges" in c)
    data = gu.load("karate")
    model = gu.GCN(data.num_features)
    namespace = {"gu": gu, "data": data, "model": model, "edge_index_to_remove": data.edge_index[:, :2]}
    exec(compile(code, "README.md", "exec"), namespace)
    assert namespace["scores"].shape == (34,)
    assert namespace["z"].equal(model(data.x, data.edge_index[:, 2:]))


def test_influence_examples_run_as_printed(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    for code in re.findall(r"```python\n(.*?)```", INFLUENCE.read_text(), re.S):
        exec(compile(code.replace("epochs=100", "epochs=5"), "influence.md", "exec"), namespace)
    assert (tmp_path / "runs" / "mine" / "influence.html").stat().st_size > 10_000
    assert namespace["scores"].shape == (namespace["data"].num_edges,)


def test_examples_of_figures_run_as_printed(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    for code in re.findall(r"```python\n(.*?)```", METRICS.read_text(), re.S):
        exec(compile(code.replace("epochs=200", "epochs=20"), "metrics.md", "exec"), namespace)
    assert 0 < namespace["table"]["certainty"] < 1
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "evaluation.json", "evaluation.csv"}


def test_readme_on_influence_runs_as_printed() -> None:
    import gunlearn as gu

    (code,) = (c for c in re.findall(r"```python\n(.*?)```", README.read_text(), re.S) if "influence_study" in c)
    data = gu.link_split(gu.load("karate"), 0.1, 0.1)
    namespace = {"gu": gu, "data": data, "model": gu.GCN(data.num_features)}
    exec(compile(code, "README.md", "exec"), namespace)
    assert namespace["study"]["exact"]["spearman"] == pytest.approx(1)
