"""The generated tables of README and docs are fresh, and the examples run as printed, with fewer epochs."""

import re
from pathlib import Path
from typing import Any

import pytest

from docs.fill_tables import TABLES
from gunlearn.attribution import ESTIMATORS
from gunlearn.methods import METHODS
from tests.conftest import REPOSITORY

README = REPOSITORY / "README.md"
ALIGNMENT = REPOSITORY / "docs" / "alignment.md"
IMAGES = REPOSITORY / "docs" / "images.md"
INFLUENCE = REPOSITORY / "docs" / "influence.md"
LOSSES = REPOSITORY / "docs" / "losses.md"
CONNECTIVITY = REPOSITORY / "docs" / "connectivity.md"
DIFFUSION = REPOSITORY / "docs" / "diffusion.md"
GUIDE = REPOSITORY / "docs" / "methods.md"
METRICS = REPOSITORY / "docs" / "metrics.md"
REQUESTS = REPOSITORY / "docs" / "requests.md"


@pytest.mark.parametrize("name", TABLES)
def test_generated_tables_are_not_stale(name: str) -> None:
    file, table = TABLES[name]
    committed = re.search(rf"<!-- table:{name} -->\n(.*?)<!-- end -->", file.read_text(), re.S)[1]
    assert committed.strip() == table().strip(), "run: python docs/fill_tables.py"


def test_the_front_page_is_short_and_its_links_lead_somewhere() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= 250
    methods = [cls for cls in METHODS.values() if not {"causal_lm", "denoising"} & set(cls.tasks)]
    assert f"**{len(methods)} graph methods**" in text
    assert f"**{len(ESTIMATORS)} influence estimators**" in text
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert link.startswith("http") or (REPOSITORY / link).exists(), link


def executed(file: Path, word: str = "", **names: Any) -> dict[str, Any]:
    """What the file's examples that hold `word` define, run one after the other."""
    blocks = [code for code in re.findall(r"```python\n(.*?)```", file.read_text(), re.S) if word in code]
    assert blocks
    for code in blocks:
        few = re.sub(r"(\bepochs=|\brange\((?=200))(100|200)\b", lambda match: f"{match[1]}{int(match[2]) // 10}", code)
        exec(compile(few, file.name, "exec"), names)
    return names


def test_the_front_page(tmp_path, monkeypatch, capsys) -> None:
    """Nodes and edges, on models that the package did not write; saved, and read again."""
    monkeypatch.chdir(tmp_path)
    names = executed(README)
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert names["table"]["js_floor_forget"] > 0
    assert names["more"].num_forget == 5
    assert names["again"].model is not names["model"]
    assert "'auto' chose 'continued_training', because the" in capsys.readouterr().out


def test_items() -> None:
    names = executed(REQUESTS, "ForgetItems")
    assert names["result"].num_forget == 20


def test_images() -> None:
    names = executed(IMAGES)
    gone = names["data"].train_mask & (names["data"].y == 3)
    assert names["result"].num_forget == int(gone.sum())
    assert names["table"].rows[1]["forget_acc"] == 0.0  # a model that never saw the class


def test_paths_between_models(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = executed(CONNECTIVITY)
    assert names["curve"].evaluation.barrier_retain < names["line"].evaluation.barrier_retain
    assert max(row["forget_acc"] for row in names["kept"].evaluation.rows) < 0.2
    assert {path.name for path in tmp_path.iterdir()} == {"path.png", "path"}


def test_alignment() -> None:
    names = executed(ALIGNMENT)
    plain, aligned = (names[name].evaluation.barrier_retain for name in ("plain", "aligned"))
    assert aligned < plain / 2
    moved = names["found"].permutations["convs.0"]
    assert sorted(moved.tolist()) == list(range(32)) != moved.tolist()


def test_denoisers() -> None:
    names = executed(DIFFUSION, "import gunlearn as gu")
    assert (names["result"].num_forget, names["result"].task.name) == (8, "denoising")


def test_pieces() -> None:
    """The page stands alone: nothing is handed in."""
    names = executed(LOSSES)
    data = names["data"]
    assert names["scores"].shape == (34,)
    assert names["z"].equal(names["model"](data.x, data.edge_index[:, 2:]))


def test_influence(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = executed(INFLUENCE)
    assert (tmp_path / "runs" / "mine" / "influence.html").stat().st_size > 10_000
    assert names["scores"].shape == (names["data"].num_edges,)


def test_nearest_to_retraining() -> None:
    names = executed(GUIDE, "training=base")
    assert names["result"].notes["start"] == "estimated second moments"
    names = executed(GUIDE, "KeepState", **names)
    assert (names["result"].notes["chosen"], names["keeping"].taken) == ("continued_training", 100)


def test_figures(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = executed(METRICS)
    assert 0 < names["table"]["certainty"] < 1
    assert [row["model"] for row in names["found"].rows] == ["npo", "original", "retrained 0", "retrained 1"]
    assert 0 <= names["found"].of("npo")["ua"] <= 1
    made = {"report.html", "evaluation.json", "evaluation.csv", "pictures.html"}
    assert {path.name for path in tmp_path.iterdir()} == made
