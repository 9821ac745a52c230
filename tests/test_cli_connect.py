"""`gunlearn connect` on saved results."""

import json
import warnings
from pathlib import Path

import pytest

import gunlearn as gu
from gunlearn.bench import Recipe
from gunlearn.cli.connect_command import Connect
from tests.command import call, refusal

SIZES = ["--dataset", "karate", "--count", "4", "--hidden-channels", "8", "--out-channels", "4", "--threads", "1"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of the original model, of two unlearned ones, and of one that forgot other edges."""
    folder = tmp_path_factory.mktemp("runs")
    data, request = gu.link_split(gu.load("karate"), seed=0), gu.ForgetEdges(count=4, seed=0)
    recipe = Recipe(epochs=30, hidden_channels=8, out_channels=4)
    base = gu.train(recipe.model(data, 0), data, epochs=30)
    base.save(folder / "original")
    for name, method, forget in (
        ("one", "npo", request), ("two", "gradient_ascent", request), ("other", "npo", gu.ForgetEdges(count=3, seed=5)),
    ):  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gu.unlearn(base.model, data, forget, method, epochs=4).save(folder / name)
    return folder


def test_it_writes_a_table_a_picture_and_the_path(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = [str(runs / "one"), str(runs / "two"), "--references", str(runs / "original")]
    assert call("connect", *words, *SIZES, "--points", "5", "--out", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "linear path" in printed
    assert len(json.loads((tmp_path / "path.json").read_text())["rows"]) == 5
    assert (tmp_path / "path.png").stat().st_size > 1000
    assert (tmp_path / "path" / "path.safetensors").is_file()


def test_it_trains_a_curve(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = [str(runs / "original"), str(runs / "two"), "--path", "bezier", "--steps", "5", "--lr", "0.01"]
    more = ["--start", "original", "--original", str(runs / "original"), "--forgetting", "0.1", "--no-progress"]
    assert call("connect", *words, *more, *SIZES, "--points", "3", "--out", str(tmp_path)) == 0
    assert "bezier path" in capsys.readouterr().out


def test_what_does_not_fit_is_refused(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    two = [str(runs / "one"), str(runs / "other"), "--out", str(tmp_path)]
    assert "runs of the request that these options describe" in refusal(capsys, "connect", *two, *SIZES)
    two[1] = str(runs / "two")
    assert "fits" in refusal(capsys, "connect", *two, *SIZES, "--num-layers", "3")
    assert "path='linear'" in refusal(capsys, "connect", *two, *SIZES, "--steps", "5")
    two[1] = str(runs / "nothing")
    assert "saved result" in refusal(capsys, "connect", *two, *SIZES)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "config.json").write_text("{}")
    two[1] = str(tmp_path / "text")
    assert f"(got {tmp_path / 'text'}, a language model)" in refusal(capsys, "connect", *two, *SIZES)
    assert not (tmp_path / "path.json").exists()


def test_classes_are_taken_by_number_and_by_name(runs: Path, capsys: pytest.CaptureFixture) -> None:
    """A name reaches the data, which then say that they have no such class."""
    nodes = {"dataset": "digits", "task": "node_classification", "forget": "classes"}
    data, request, _ = Connect(runs, runs, **nodes, labels=("3",))._problem()
    assert request.resolve(data).num_forget == int((data.train_mask & (data.y == 3)).sum())
    words = [str(runs / "one"), str(runs / "two"), "--dataset", "digits", "--task", "node_classification"]
    assert "Shirt" in refusal(capsys, "connect", *words, "--forget", "classes", "--labels", "Shirt")


def test_the_last_row_is_printed(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = [str(runs / "one"), str(runs / "two"), *SIZES, "--out", str(tmp_path)]
    assert call("connect", *words, "--points", "36") == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed[1:-2]][-1] == "1"
