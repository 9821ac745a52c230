"""`gunlearn connect` on saved results."""

import json
import warnings
from pathlib import Path

import pytest
import torch

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
    gu.train(recipe.model(data, 1), data, epochs=30, seed=1).save(folder / "again")
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


def test_a_model_with_dropout_is_told_how_to_be_named(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The command's own models have none; the control is what Python alone can pass."""
    data = gu.link_split(gu.load("karate"), seed=0)
    gu.train(gu.GCN(data.num_features, 8, 4, dropout=0.5), data, epochs=2).save(tmp_path / "dropped")
    said = refusal(capsys, "connect", str(runs / "one"), str(tmp_path / "dropped"), *SIZES)
    assert "dropout" in said
    assert "--model FILE.py:FUNCTION" in said
    assert "strict" not in said


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
    verdict = next(k for k, line in enumerate(printed) if line.startswith("linear path"))
    assert printed[verdict - 1].split()[0] == "1"
    integrals = json.loads((tmp_path / "path.json").read_text())["summary"]
    assert printed[verdict + 1].startswith("integrals by arc length: ")
    assert f"loss_retain {integrals['loss_retain']['integral']:.4g}, " in printed[verdict + 1]


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """The arguments of each call of `connect`, which runs as it is."""
    seen: list[dict] = []
    plain = gu.connectivity.connect

    def connect(*models: object, **named: object) -> object:
        seen.append({**dict(zip(("first", "second", "data", "request", "task"), models, strict=True)), **named})
        return plain(*models, **named)

    monkeypatch.setattr(gu.connectivity, "connect", connect)
    return seen


def test_each_option_is_handed_on(runs: Path, tmp_path: Path, handed: list[dict]) -> None:
    """A value other than the default for every option of the path, the curve and the evaluation."""
    asked = {
        "align": "messages", "child": "calibrated", "path": "bezier", "num_bends": 2, "steps": 3, "lr": 0.02,
        "batch_size": 8, "forgetting": 0.2, "bound": 3.0, "t": "normal", "optimizer": "sgd", "start": "original",
        "points": 4, "tolerance_retain": 5.0, "tolerance_forget": 6.0, "progress": False,
    }  # fmt: skip
    words = [f"--{name.replace('_', '-')}={value}" for name, value in asked.items() if name != "progress"]
    folders = [str(runs / "one"), str(runs / "two"), "--original", str(runs / "original")]
    more = ["--references", str(runs / "two"), str(runs / "again"), "--metrics", "relearn_steps", "--no-progress"]
    assert call("connect", *folders, *words, *more, *SIZES, "--out", str(tmp_path)) == 0
    (given,) = handed
    assert {name: given[name] for name in asked} == asked
    assert given["metrics"] == ("relearn_steps",)
    for model, name in ((given["second"], "two"), (given["original"], "original"), (given["references"][0], "two")):
        saved = gu.Result.load(runs / name, given["first"]).model
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), saved.parameters(), strict=True))
    saved = json.loads((tmp_path / "path.json").read_text())
    assert [saved["tolerance_retain"], saved["tolerance_forget"]] == [5.0, 6.0]
    assert len(saved["references"]) == 2
    assert saved["rows"][1]["relearn_steps"] is not None


def test_the_seed_is_handed_on(runs: Path, tmp_path: Path, handed: list[dict]) -> None:
    """A seed of its own splits the data anew, so that an explicit file says what was forgotten, of models alone."""
    words = [str(runs / "original"), str(runs / "original"), *SIZES, "--points", "3", "--out", str(tmp_path)]
    assert call("connect", *words, "--seed", "3") == 0
    assert handed[0]["seed"] == 3


def test_models_with_operators_have_a_table_and_no_stored_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their path would tell the nodes that were forgotten: that is said, after all else is written."""
    data = gu.link_split(gu.load("karate"), seed=0)
    recipe, request = Recipe(epochs=30, hidden_channels=8, out_channels=4), gu.ForgetEdges(count=4, seed=0)
    base = gu.train(recipe.model(data, 0), data, epochs=30)
    for seed in (0, 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = gu.unlearn(base.model, data, request, "gnndelete", epochs=2, seed=seed, lr=1e-2 * (1 + seed))
        run.save(tmp_path / str(seed))
    words = [str(tmp_path / "0"), str(tmp_path / "1"), *SIZES, "--points", "3", "--out", str(tmp_path / "out")]
    assert call("connect", *words) == 0
    printed = capsys.readouterr().out
    assert "linear path" in printed
    assert "path: not stored: Expected a path without deletion operators" in printed
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["path.json", "path.png"]


def test_the_path_of_an_earlier_run_does_not_stay_beside_another_one(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Somebody else's file in that folder stays."""
    words = [str(runs / "one"), str(runs / "two"), *SIZES, "--points", "3", "--out", str(tmp_path)]
    assert call("connect", *words) == 0
    assert (tmp_path / "path" / "path.safetensors").exists()
    (tmp_path / "path" / "note.txt").write_text("mine")
    assert call("connect", *words, "--child", "calibrated") == 0
    assert "path: not stored" in capsys.readouterr().out
    assert [file.name for file in (tmp_path / "path").iterdir()] == ["note.txt"]
