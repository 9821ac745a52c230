import csv
import errno
import json
import os
import shlex
import subprocess
import sys
from itertools import product

import networkx as nx
import numpy as np
import pytest
import tyro

import gunlearn
from gunlearn.attribution import ESTIMATORS
from gunlearn.bench import Recipe
from gunlearn.cli import COMMANDS, main
from gunlearn.cli.fields import command_line
from gunlearn.cli.grid_command import PLACEHOLDERS, Run
from gunlearn.cli.influence import InfluenceCommand
from gunlearn.datasets import DATASETS
from gunlearn.errors import InvalidInputError
from gunlearn.losses import LOSSES
from gunlearn.methods import METHODS
from gunlearn.metrics import FIGURES
from gunlearn.report import markdown_table
from tests.command import call, refusal
from tests.conftest import REPOSITORY

SMALL = ["--dataset", "karate", "--epochs", "10", "--hidden-channels", "8", "--out-channels", "4", "--no-progress"]


def test_run_writes_everything(tmp_path, capsys):
    out = tmp_path / "out"
    words = "--methods retrain utu npo:default --forget edges --count 5 --seeds 0 1"
    command = ["run", *SMALL, *words.split()]
    command += ["--method-arg", "npo.epochs=2", "--method-arg", "lr=0.01", "--threads", "1", "--out", str(out)]
    assert call(*command) == 0
    printed = capsys.readouterr()
    assert "± " in printed.out
    assert printed.err == ""
    rows = json.loads((out / "results.json").read_text())
    assert [row["method"] for row in rows] == ["original", "retrain", "utu", "npo"] * 2
    assert (rows[3]["epochs"], rows[3]["options"]["lr"], rows[3]["recipe"]["epochs"]) == (2, 0.01, 10)
    html = (out / "report.html").read_bytes()
    assert b"<code>gunlearn run --dataset karate --methods retrain utu npo:default" in html
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
        (["run", *SMALL, "--method-arg", "beta"], "key=value"),
        (["run", *SMALL, "--method-arg", "npo.bata=1"], "did you mean 'beta'?"),
        (["run", *SMALL, "--method-arg", "nppo.beta=1"], "did you mean 'npo'?"),
        (["run", *SMALL, "--forget", "nodes", "--methods", "inpo"], "'inpo' (got 'nodes')"),
        (["run", *SMALL, "--forget", "nodes", "features", "--methods", "utu", "inpo"], "'inpo' (got 'nodes')"),
        (["run", *SMALL, "--methods", "utu", "megu"], "'megu' (got 'link_prediction')"),
        (["run", *SMALL, "--out", __file__], "folder that can be written"),
        (["run", *SMALL, "--out", f"{__file__}/below"], "folder that can be written"),
        (["run", *SMALL, "--out", "/proc/gunlearn"], "folder that can be written"),
        (["influence", *SMALL, "--out", __file__], "folder that can be written"),
        (["influence", *SMALL, "--truth", "removl"], "truth"),
        (["influence", *SMALL, "--estimators", "nora", "--estimator-arg", "nora.bata=1"], "did you mean 'beta'?"),
        (["run", *SMALL, "--ratio", "0"], "0 < ratio < 1"),
        (["run", *SMALL, "--ratio", "0.1", "--count", "3"], "exactly one"),
        (["run", *SMALL, "--count", "1000"], "1000"),
        (["run", *SMALL, "--seed", "1", "--seeds", "1", "2"], "--seed"),
        (["run", *SMALL, "--datasets", "karate", "lesmis"], "--dataset"),
        (["run", *SMALL, "--ratio", "0.1", "--ratios", "0.1", "0.2"], "--ratio"),
        (["run", *SMALL, "--counts", "3", "3"], "twice"),
        (["report", "nowhere"], "results.json"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(argv, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GUNLEARN_DATA", raising=False)
    monkeypatch.setenv("GUNLEARN_CACHE", str(tmp_path / "cache"))
    assert words in refusal(capsys, *argv)


@pytest.mark.parametrize("words", [("run", "--ratio", "0"), ("influence", "--num-items", "0")], ids=str)
def test_debug_shows_the_traceback(words, tmp_path):
    with pytest.raises(InvalidInputError):
        main([*words, *SMALL, "--debug", "--out", str(tmp_path)])


def test_a_method_that_failed_everywhere_is_exit_code_1(tmp_path, capsys):
    words = "--count 5 --method-arg npo.lr=1e30 --methods npo:default"
    command = ["run", *SMALL, "--out", str(tmp_path), *words.split()]
    assert call(*command) == 1
    assert "failed" in capsys.readouterr().out
    assert call(*command, "utu") == 1
    rows = len((tmp_path / "rows.jsonl").read_text().splitlines())
    assert call(*command, "utu") == 1
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == rows  # the same failure is not told again
    assert call("run", *SMALL, *words.split()[:2], "--methods", "utu", "--out", str(tmp_path)) == 0


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


LISTINGS = {
    "methods": METHODS, "figures": FIGURES, "losses": LOSSES, "datasets": DATASETS, "estimators": ESTIMATORS
}  # fmt: skip


@pytest.mark.parametrize(("command", "names"), LISTINGS.items())
def test_listings(command, names, capsys):
    for flags in ([], ["--markdown"]):
        assert call(command, *flags) == 0
        printed = capsys.readouterr().out
        assert all(name in printed for name in names)


def test_help_needs_no_torch():
    code = "import sys, gunlearn.cli; print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"], done.stderr


def test_help_names_every_command(capsys):
    assert call("--help") == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in COMMANDS)


@pytest.mark.parametrize(("command", "options"), [("run", Run()), ("influence", InfluenceCommand())])
def test_help_says_every_option(command, options, capsys):
    assert call(command, "--help") == 0
    printed = capsys.readouterr().out
    for name in vars(options):
        assert ("--no-progress" if name == "progress" else "--" + name.replace("_", "-")) in printed


def test_defaults_are_the_recipes():
    (named,), (plain,), (seeded,) = (run.configs() for run in (Run(dataset="DBLP"), Run(), Run(seed=42)))
    assert named.recipe == Recipe()
    assert (plain.dataset, plain.recipe.epochs, plain.seeds, plain.ratio) == ("digits", 300, (0,), 0.005)
    assert seeded.seeds == (42,)


@pytest.mark.parametrize(
    ("task", "forget"),
    [
        *product(("link_prediction", "node_classification"), ("edges", "nodes", "features")),
        *product(("node_classification",), ("flipped_labels", "planted_edges")),
        ("graph_classification", "graphs"),
        ("image_classification", "items"),
    ],
)
def test_methods_by_default_can_do_the_problem(task, forget):
    """The control is `inpo`, which does edges of link prediction alone."""
    (config,) = Run(dataset="Cora", task=(task,), forget=(forget,)).configs()
    names = {method.name for method in config.plan()}
    assert not [why for method in config.plan() if (why := config.objection(method))]
    assert ("inpo" in names) == ((task, forget) == ("link_prediction", "edges"))
    assert {"utu", "npo"} < names


def test_a_suite_is_every_combination_with_the_defaults_of_each():
    run = Run(datasets=("Cora", "karate"), task=("link_prediction", "node_classification"), forget=("edges", "nodes"))
    found = [
        (c.dataset, c.task, c.forget, c.ratio, c.recipe.epochs, c.recipe.lr, c.recipe.weight_decay)
        for c in run.configs()
    ]
    links, nodes = ("link_prediction",), ("node_classification",)
    assert found == [
        ("Cora", *links, "edges", 0.005, 2000, 1e-3, 0.0),
        ("Cora", *links, "nodes", 0.05, 2000, 1e-3, 0.0),
        ("Cora", *nodes, "edges", 0.005, 500, 1e-2, 5e-4),
        ("Cora", *nodes, "nodes", 0.05, 500, 1e-2, 5e-4),
        ("karate", *links, "edges", 0.005, 300, 1e-3, 0.0),
        ("karate", *links, "nodes", 0.05, 300, 1e-3, 0.0),
        ("karate", *nodes, "edges", 0.005, 300, 1e-2, 5e-4),
        ("karate", *nodes, "nodes", 0.05, 300, 1e-2, 5e-4),
    ]
    assert [c.ratio for c in Run(ratios=(0.1, 0.2)).configs()] == [0.1, 0.2]
    assert [(c.ratio, c.count) for c in Run(counts=(3, 4)).configs()] == [(None, 3), (None, 4)]
    assert str(run.folder) == "runs/cora-karate"


def test_a_suite_of_several_problems(tmp_path, capsys):
    words = ["--ratios", "0.1", "0.2", "--forget", "edges", "nodes", "--methods", "utu", "inpo:default"]
    assert call("run", *SMALL, *words, "--out", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    for share in ("ratio 0.1 of edges", "ratio 0.2 of edges", "ratio 0.1 of nodes", "ratio 0.2 of nodes"):
        assert f"karate, link prediction, {share} forgotten" in printed
    rows = json.loads((tmp_path / "results.json").read_text())
    assert [bool(row["error"]) for row in rows] == [False] * 8 + [
        False,
        False,
        False,
        True,
    ] * 2  # inpo: edges
    assert "| karate, forget nodes, ratio 0.2 | utu | default | 1 |" in markdown_table(rows)
    assert call("report", str(tmp_path), "--markdown") == 0
    assert capsys.readouterr().out.count("### ") == 4
    one = ["--ratio", "0.2", "--methods", "utu", "inpo:default"]
    assert call("run", *SMALL, *one, "--out", str(tmp_path)) == 0  # the same rows, not computed again
    again = json.loads((tmp_path / "results.json").read_text())
    assert again[:3] == [row for row in rows if (row["forget"], row["ratio"]) == ("edges", 0.2)][:3]


def test_a_forget_file_names_people_and_the_outputs_do_not(tmp_path, capsys):
    people, out = tmp_path / "people", tmp_path / "out"
    people.mkdir()
    pairs = [(f"n{u}", f"n{v}") for u, v in nx.karate_club_graph().edges]
    (people / "edges.csv").write_text("source,target\n" + "".join(f"{u},{v}\n" for u, v in pairs))
    (tmp_path / "n31.txt").write_text("n31\nn7\n")
    command = ["run", "--dataset", str(people), *SMALL[2:], "--methods", "utu", "--forget", "nodes", "--out", str(out)]
    assert call(*command, "--forget-file", str(tmp_path / "n31.txt")) == 0
    rows = json.loads((out / "results.json").read_text())
    assert [(row["num_forget"], row["count"], row["ratio"]) for row in rows] == [(2, 2, None)] * 3
    written = [path.read_bytes() for path in out.rglob("*") if path.is_file()]
    assert not any(b"n31" in text or b"n7\n" in text for text in written)
    (tmp_path / "n31.txt").write_text("n31\n")  # another content is another problem
    assert call(*command, "--forget-file", str(tmp_path / "n31.txt")) == 0
    assert json.loads((out / "results.json").read_text())[-1]["num_forget"] == 1
    capsys.readouterr()
    (tmp_path / "bad.txt").write_text("n31\nnobody\n")
    assert "number 2 of the request" in refusal(capsys, *command, "--forget-file", str(tmp_path / "bad.txt"))
    assert "ratio, count" in refusal(capsys, *command, "--count", "2", "--forget-file", str(tmp_path / "n31.txt"))
    (tmp_path / "twice.txt").write_text("n31\nn7\nn31\n")
    said = refusal(capsys, *command, "--forget-file", str(tmp_path / "twice.txt"))
    assert "once (got 1 repeated: number 3 of the request); take these out of the file of --forget-file" in said
    assert "missing=" not in said
    (tmp_path / "pairs.csv").write_text("n0,n1\n")
    assert "1 id per line" in refusal(capsys, *command, "--forget-file", str(tmp_path / "pairs.csv"))


def written(run: Run) -> list[str]:
    """The words of the command that outputs tell."""
    return shlex.split(command_line("run", run, PLACEHOLDERS, ("dataset", "datasets")))


@pytest.mark.parametrize(
    "words",
    [
        "",
        "--datasets karate lesmis --ratios 0.1 0.2 --seeds 3 4 --forget edges nodes --by degree --no-progress --debug",
        "--dataset 'a folder' --method-arg lr=1e-3 --method-arg npo.beta=2 --n-jobs 2 --lr 1e-05",
        "--method-arg a.b=[1,null] --method-arg a.c=mean --method-arg 'a.d={\"x\": true}' --method-arg e=None",
        "--forget nodes --region out --hidden-channels 7",
    ],
)
def test_a_report_names_the_command(words):
    """What is written down means the same to tyro."""
    run = tyro.cli(Run, args=shlex.split(words))
    program, name, *argv = written(run)
    assert (program, name) == ("gunlearn", "run")
    assert tyro.cli(Run, args=argv) == run


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("--address tcp://user:secret@10.0.0.1:8786", "--address ADDRESS"),
        ("--root /home/secret", "--root DATA"),
        ("--out secret", "--out OUT"),
        ("--models /home/secret/m", "--models MODELS"),
        ("--forget-file secret/n31.txt", "--forget-file FILE"),
        ("--dataset /home/secret/graph.csv", "--dataset graph.csv"),
        ("--dataset secret/graph/", "--dataset graph"),
        ("--dataset 'C:\\secret\\graph'", "--dataset graph"),
        ("--dataset ./", "--dataset PATH"),
        ("--datasets karate /home/secret/graph", "--datasets karate graph"),
        ("--method-arg replay.training=/home/secret/a.pt", "--method-arg replay.training=PATH"),
        ("--method-arg 'training= secret.pt'", "--method-arg training=PATH"),
        ("--method-arg training=secret_folder", "--method-arg training=PATH"),  # it is there
        ("--method-arg \"a.b=[1, ('x', 'secret/a')]\"", "--method-arg a.b=PATH"),
        ("--method-arg \"a.b={'x': {'y': '~/secret'}}\"", "--method-arg a.b=PATH"),
        ("--method-arg a.b=tcp://me:secret@host", "--method-arg a.b=PATH"),
    ],
)
def test_a_report_tells_no_path_and_no_address(given, told, tmp_path, monkeypatch):
    """Placeholders stand for them, and everything else means the same to tyro."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret_folder").mkdir()
    argv = written(tyro.cli(Run, args=["--seed", "3", *shlex.split(given), "--device", "auto"]))[2:]
    assert "secret" not in " ".join(argv)
    assert tyro.cli(Run, args=argv) == tyro.cli(Run, args=["--seed", "3", *shlex.split(told), "--device", "auto"])


def test_a_run_writes_no_path(tmp_path):
    people, out = tmp_path / "people", tmp_path / "out"
    people.mkdir()
    (people / "edges.csv").write_text("".join(f"{u},{v}\n" for u, v in nx.karate_club_graph().edges))
    folders = ["--root", str(tmp_path / "raw"), "--out", str(out), "--models", str(tmp_path / "models")]
    assert call("run", "--dataset", str(people), *SMALL[2:], "--methods", "utu", "--count", "2", *folders) == 0
    assert shlex.split((out / "command.txt").read_text())[2:4] == ["--dataset", "people"]
    for name in ("command.txt", "report.html"):
        text = (out / name).read_text()
        assert "--models MODELS" in text
        assert str(tmp_path) not in text


@pytest.mark.parametrize("argv", [["--forget", "nodes", "--methods", "inpo"], ["--methods", "megu"]])
def test_what_is_impossible_trains_nothing(argv, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("gunlearn.bench.grid._Problem", lambda *a: pytest.fail("a model was trained"))
    assert "Expected" in refusal(capsys, "run", *SMALL, *argv, "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_version(capsys):
    assert call("--version") == 0
    assert capsys.readouterr().out == f"gunlearn {gunlearn.__version__}\n"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "rows.jsonl"), "No space left on device: rows.jsonl"),
        (OSError(errno.EROFS, "Read-only file system", "out"), "Read-only file system: out"),
        (EOFError("Ran out of input"), "EOFError: Ran out of input (unforeseen; --debug shows where)"),
    ],
)
def test_any_error_is_one_line(error, words, tmp_path, monkeypatch, capsys):
    def failing(*args, **kwargs):
        raise error

    monkeypatch.setattr("gunlearn.bench.cell.load", failing)
    command = ["run", *SMALL, "--methods", "utu", "--out", str(tmp_path)]
    assert call(*command) == 2
    assert capsys.readouterr().err == f"error: {words}\n"
    with pytest.raises(type(error)):
        main([*command, "--debug"])


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of processes")
def test_a_full_disk_is_one_line(tmp_path):
    code = (
        "import resource, sys; from gunlearn.cli import main; import gunlearn.bench, gunlearn.report\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)); main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, "run", *SMALL, "--methods", "utu", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")


def test_names_drive_no_terminal_and_no_spreadsheet(tmp_path, monkeypatch, capsys):
    name = "=cmd\x1b[31m\u202e\x07"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "edges.csv").write_text("".join(f"{i},{(i + k) % 12}\n" for i in range(12) for k in (1, 2)))
    np.save(folder / "features.npy", np.eye(12, 5, dtype=np.float32))
    words = [*SMALL[2:], "--count", "2", "--methods", "utu"]
    assert call("run", "--dataset", str(folder), *words, "--out", str(tmp_path / "out")) == 0
    printed = capsys.readouterr()
    assert call("report", str(tmp_path / "out"), "--markdown") == 0
    assert call("run", "--dataset", str(tmp_path / f"no{name}"), *words, "--out", str(tmp_path / "out")) == 2
    everything = printed.out + printed.err + "".join(capsys.readouterr())
    assert "=cmd\\x1b[31m\\u202e\\x07" in everything
    assert not {"\x1b", "\u202e", "\x07"} & set(everything)
    with (tmp_path / "out" / "results.csv").open() as file:
        assert all(row["dataset"] == f"'{name}" for row in csv.DictReader(file))


@pytest.mark.parametrize(
    "content", ["", "[]", "[1]", '{"a": 1}', '[{"method": "utu"}]', '[{"method": "utu", "dataset": 3, "curve": "x"}]']
)
def test_damaged_results_are_one_line(content, tmp_path, capsys):
    (tmp_path / "results.json").write_text(content)
    command = ["report", str(tmp_path)]
    if call(*command) != 0:  # a row of few entries can be drawn
        assert capsys.readouterr().err.startswith("error: Expected")
    (tmp_path / "influence.json").write_text(content)
    capsys.readouterr()
    assert "influence" in refusal(capsys, *command)


@pytest.mark.parametrize("words", [["run", "--help"], ["methods"], ["--version"]])
def test_a_closed_pipe_ends_the_command_quietly(words):
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "gunlearn", *words], stdout=closed, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (141, "")
