from __future__ import annotations

import json
import subprocess
import sys

import pytest

from gunlearn.bench import Recipe
from gunlearn.cli import COMMANDS, main
from gunlearn.cli.run import Run
from gunlearn.datasets import DATASETS
from gunlearn.losses import LOSSES
from gunlearn.methods import METHODS
from tests.conftest import REPOSITORY

SMALL = ["--dataset", "karate", "--epochs", "10", "--hidden-channels", "8", "--out-channels", "4", "--no-progress"]


def call(*argv):
    try:
        main(list(argv))
    except SystemExit as stop:
        return stop.code or 0
    return 0


def test_run_writes_everything(tmp_path, capsys):
    out = tmp_path / "out"
    command = [
        "run",
        *SMALL,
        "--methods",
        "retrain",
        "utu",
        "npo:default",
        "--forget",
        "edges",
        "--count",
        "5",
        "--seeds",
        "0",
        "1",
    ]
    command += ["--method-arg", "npo.epochs=2", "--method-arg", "lr=0.01", "--threads", "1", "--out", str(out)]
    assert call(*command) == 0
    printed = capsys.readouterr()
    assert "± " in printed.out
    assert printed.err == ""
    rows = json.loads((out / "results.json").read_text())
    assert [row["method"] for row in rows] == ["original", "retrain", "utu", "npo"] * 2
    assert (rows[3]["epochs"], rows[3]["options"]["lr"], rows[3]["recipe"]["epochs"]) == (2, 0.01, 10)
    html = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    assert call("report", str(out)) == 0
    assert (out / "report.html").read_bytes() == html
    capsys.readouterr()
    assert call("report", str(out), "--markdown") == 0
    assert capsys.readouterr().out.startswith("| method |")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["run", "--dataset", "DBLB"], "DBLP"),
        (["run", "--dataset", "DBLP", "--root", "nowhere"], "dblp.npz"),
        (["run", "--dataset", "./no/such/folder"], "edges.csv"),
        (["run", *SMALL, "--methods", "nope"], "nope"),
        (["run", *SMALL, "--method-arg", "epoch=5"], "epochs"),
        (["run", *SMALL, "--method-arg", "beta"], "key=value"),
        (["run", *SMALL, "--ratio", "0"], "0 < ratio < 1"),
        (["run", *SMALL, "--ratio", "1.5"], "0 < ratio < 1"),
        (["run", *SMALL, "--ratio", "0.1", "--count", "3"], "exactly one"),
        (["run", *SMALL, "--count", "1000"], "1000"),
        (["run", *SMALL, "--seed", "1", "--seeds", "1", "2"], "--seed"),
        (["run", *SMALL, "--epochs", "-1"], "epochs"),
        (["report", "nowhere"], "results.json"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(argv, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GUNLEARN_DATA", raising=False)
    monkeypatch.setenv("GUNLEARN_CACHE", str(tmp_path / "cache"))
    assert call(*argv) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: Expected")
    assert words in line


def test_debug_shows_the_traceback(tmp_path):
    from gunlearn.errors import InvalidInputError

    with pytest.raises(InvalidInputError):
        main(["run", *SMALL, "--ratio", "0", "--debug", "--out", str(tmp_path)])


def test_every_method_failed_is_exit_code_1(tmp_path, capsys):
    command = [
        "run",
        *SMALL,
        "--count",
        "5",
        "--out",
        str(tmp_path),
        "--method-arg",
        "npo.lr=1e30",
        "--methods",
        "npo:default",
    ]
    assert call(*command) == 1
    assert "failed" in capsys.readouterr().out
    assert call(*command, "utu") == 0


def test_ctrl_c_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    command = ["run", *SMALL, "--count", "5", "--methods", "utu", "npo", "--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr("gunlearn.bench.grid.run_method", interrupted)
        assert call(*command) == 130
    error = capsys.readouterr().err
    assert "2 rows are kept" in error  # the original and the retrained model
    assert "same command" in error
    assert call(*command) == 0


@pytest.mark.parametrize(("command", "names"), [("methods", METHODS), ("losses", LOSSES), ("datasets", DATASETS)])
def test_listings(command, names, capsys):
    for flags in ([], ["--markdown"]):
        assert call(command, *flags) == 0
        printed = capsys.readouterr().out
        assert all(name in printed for name in names)


def test_module_lists_methods():
    done = subprocess.run([sys.executable, "-m", "gunlearn", "methods"], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in METHODS)


def test_help_needs_no_torch():
    code = "import sys, gunlearn.cli; print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"], done.stderr


def test_help_says_every_option(capsys):
    assert call("--help") == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in COMMANDS)
    assert call("run", "--help") == 0
    printed = capsys.readouterr().out
    for name in vars(Run()):
        option = "--no-progress" if name == "progress" else "--" + name.replace("_", "-")
        assert option in printed


def test_defaults_are_the_recipes():
    recipe, run = Recipe(), Run()
    assert Run(dataset="DBLP").config().recipe == recipe
    assert run.config().recipe.epochs == 300
    assert run.config().seeds == (0,)
    assert Run(seed=42).config().seeds == (42,)
