import json
import re
from dataclasses import replace

import numpy as np
import pytest

from gunlearn.attribution import ESTIMATORS
from gunlearn.attribution.study.truths import TRUTHS
from gunlearn.bench import InfluenceConfig
from gunlearn.errors import InvalidInputError
from tests.command import call, refusal

pytestmark = pytest.mark.filterwarnings("ignore:.*proximal Bregman responses stopped:UserWarning")

SMALL = ["influence", "--dataset", "karate", "--epochs", "5", "--hidden-channels", "8", "--out-channels", "4",
         "--threads", "1"]  # fmt: skip
QUICK = [*SMALL, "--estimators", "degree", "random"]

OWN = """
import torch
import helper_of_the_model
from torch_geometric.nn import SAGEConv


class Mine(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.conv = SAGEConv(size, 3)

    def forward(self, x, edge_index):
        return self.conv(x, edge_index)


def trained(data, seed):
    assert torch.initial_seed() == seed
    return Mine(data.num_features)


def wrong(data, seed):
    return "no model"
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "helper_of_the_model.py").write_text("")
    return tmp_path / "mine.py"


def test_writes_everything_and_keeps_the_model(tmp_path, capsys):
    out = tmp_path / "out"
    words = "--estimators nora brute --truth brute --estimator-arg nora.beta=3 --num-items 30 --seed 1"
    command = [*SMALL, *words.split(), "--out", str(out)]
    assert call(*command) == 0
    printed = capsys.readouterr()
    assert "Spearman" in printed.out
    assert "nora: Spearman" in printed.err
    rows = json.loads((out / "influence.json").read_text())
    assert [row["estimator"] for row in rows] == ["nora", "brute"]
    assert {(row["dataset"], row["model"], row["num_items"], row["seed"]) for row in rows} == {("karate", "GCN", 30, 1)}
    assert rows[0]["options"]["beta"] == 3
    assert rows[1]["spearman"] == pytest.approx(1)
    html = (out / "influence.html").read_bytes()
    assert (out / "influence.csv").is_file()
    kept = sorted(path.name for path in (out / "models").iterdir())
    assert call(*command, "--no-progress") == 0
    assert sorted(path.name for path in (out / "models").iterdir()) == kept
    again = json.loads((out / "influence.json").read_text())
    assert [row["spearman_ci"] for row in again] == [row["spearman_ci"] for row in rows]
    assert capsys.readouterr().err == ""
    (out / "influence.html").unlink()
    assert call("report", str(out)) == 0
    numbers = re.compile(rb"data:[^\"]*|<td>[^<]*</td>")  # the second run's seconds differ
    assert numbers.sub(b"", (out / "influence.html").read_bytes()) == numbers.sub(b"", html)
    capsys.readouterr()
    assert call("report", str(out), "--markdown") == 0
    assert capsys.readouterr().out.startswith("| estimator |")


def test_nodes_loss_and_node_classification(tmp_path, capsys):
    assert call(*QUICK, "--of", "nodes", "--truth", "brute", "--num-items", "6", "--out", str(tmp_path / "a")) == 0
    more = ["--task", "node_classification", "--target", "loss", "--num-items", "6", "--truth", "brute"]
    assert call(*SMALL, "--estimators", "random", *more, "--double", "--out", str(tmp_path / "b")) == 0
    (row,) = json.loads((tmp_path / "b" / "influence.json").read_text())
    assert (row["target"], row["error"]) == ("loss", None)


def test_truth_of_retraining(tmp_path, capsys):
    truth = ["--truth", "retraining", "--target", "loss", "--truth-arg", "count=4", "--truth-arg", "seeds=[0,1]"]
    assert call(*SMALL, "--estimators", "random", *truth, "--out", str(tmp_path)) == 0
    (row,) = json.loads((tmp_path / "influence.json").read_text())
    assert (row["truth_question"], row["num_items"], row["error"]) == ("training", 4, None)
    assert "noise_floor" in (tmp_path / "influence.html").read_text()


def test_own_model_and_own_graph(own, tmp_path, capsys):
    graph = tmp_path / "graph"
    graph.mkdir()
    rng = np.random.default_rng(0)
    lines = [f"{u},{v}" for u in range(30) for v in range(u + 1, 30) if rng.random() < 0.2]
    (graph / "edges.csv").write_text("source,target\n" + "\n".join(lines) + "\n")
    np.save(graph / "features.npy", rng.normal(size=(30, 5)).astype(np.float32))
    command = ["influence", "--dataset", str(graph), "--model", f"{own}:trained", "--estimators", "degree"]
    assert call(*command, "--truth", "brute", "--num-items", "8", "--out", str(tmp_path / "out")) == 0
    (row,) = json.loads((tmp_path / "out" / "influence.json").read_text())
    assert (row["dataset"], row["model"], row["error"]) == ("graph", "Mine", None)
    assert not (tmp_path / "out" / "models").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([*SMALL, "--estimators", "nope"], "nope"),
        ([*QUICK, "--truth", "nope"], "truth"),
        ([*QUICK, "--estimator-arg", "gamma=1"], "degree: none"),
        ([*QUICK, "--estimator-arg", "nora.beta=1"], "degree"),
        ([*QUICK, "--truth", "pbrf", "--target", "loss", "--truth-arg", "dumping=1"], "damping"),
        ([*QUICK, "--truth", "retraining"], "value"),
        ([*QUICK, "--num-items", "0"], "num_items"),
        ([*QUICK, "--hidden-channels", "0"], "hidden_channels"),
        ([*QUICK, "--seed", "-1"], "seed"),
        ([*QUICK, "--model", "mine"], "PATH.py:FUNCTION"),
        ([*QUICK, "--model", "none.py:f"], "none.py"),
        ([*QUICK, "--model", "mine.py:absent"], "absent"),
        ([*QUICK, "--model", "mine.py:wrong"], "module"),
        ([*QUICK, "--model", "broken.py:f"], "SyntaxError"),
        (["influence", "--dataset", "DBLB"], "DBLP"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(argv, words, own, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GUNLEARN_DATA", raising=False)
    monkeypatch.setenv("GUNLEARN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "broken.py").write_text("def")
    assert words in refusal(capsys, *argv)


def test_ctrl_c_and_failures(tmp_path, monkeypatch, capsys):
    def failing(self, problem):
        raise RuntimeError("no memory")

    command = [*SMALL, "--truth", "brute", "--num-items", "4", "--out", str(tmp_path), "--estimators", "random"]
    with monkeypatch.context() as patch:
        patch.setattr(
            "gunlearn.bench.influence_grid.influence_study", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        assert call(*command) == 130
    with monkeypatch.context() as patch:
        patch.setattr(ESTIMATORS["random"], "scores", failing)
        assert call(*command, "degree") == 0
        assert call(*command) == 1
    assert "random failed: no memory" in capsys.readouterr().out


def test_finished_rows_are_kept(tmp_path, monkeypatch, capsys):
    command = [*SMALL, "--num-items", "20", "--out", str(tmp_path), "--estimators", "nora", "degree"]
    degree, told = ESTIMATORS["degree"].scores, tmp_path / "influence-rows.jsonl"

    def interrupted(self, problem):
        if told.exists() and '"nora"' in told.read_text():
            raise KeyboardInterrupt
        return degree(self, problem)

    with monkeypatch.context() as patch:
        patch.setattr(ESTIMATORS["degree"], "scores", interrupted)
        assert call(*command) == 130
    assert not (tmp_path / "influence.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(ESTIMATORS["nora"], "scores", lambda *a: pytest.fail("computed again"))
        assert call(*command) == 0
    kept = json.loads((tmp_path / "influence.json").read_text())
    with np.load(tmp_path / "influence.npz") as held:
        scores = held["estimate/nora"]
    again = tmp_path / "again"
    assert call(*command[:-5], "--out", str(again), *command[-3:]) == 0
    fresh = json.loads((again / "influence.json").read_text())
    for a, b in zip(kept, fresh, strict=True):
        assert {k: v for k, v in a.items() if k not in ("seconds", "peak_memory_mb")} == {
            k: v for k, v in b.items() if k not in ("seconds", "peak_memory_mb")
        }
    with np.load(again / "influence.npz") as held:
        assert np.array_equal(scores, held["estimate/nora"])
    lines = len((tmp_path / "influence-rows.jsonl").read_text().splitlines())
    assert call(*command, "--seed", "1") == 0  # other settings are other rows, and another truth
    assert len((tmp_path / "influence-rows.jsonl").read_text().splitlines()) == lines + 3


@pytest.mark.parametrize("truth", ["retraining", "lds", "pbrf"])
def test_a_finished_truth_is_kept(truth, tmp_path, monkeypatch, capsys):
    few = {"retraining": ["count=4", "seeds=[0,1]"], "lds": ["count=4"], "pbrf": []}[truth]
    args = [word for option in few for word in ("--truth-arg", option)]
    more = ["--truth", truth, *args, "--num-items", "20", "--target", "loss", "--double"]
    command = [*SMALL, *more, "--out", str(tmp_path), "--estimators", "degree", "random"]
    assert call(*command) == 0
    first = json.loads((tmp_path / "influence.json").read_text())
    monkeypatch.setitem(TRUTHS, truth, replace(TRUTHS[truth], compute=lambda *a: pytest.fail("computed again")))
    assert call(*command) == 0
    assert json.loads((tmp_path / "influence.json").read_text()) == first


@pytest.mark.parametrize(
    "change",
    [{"of": "graphs"}, {"target": "logits"}, {"truth": "removl"}, {"device": "gpu"}, {"estimators": ("nope",)}],
)
def test_settings_are_checked_before_anything_is_loaded(change):
    with pytest.raises(InvalidInputError, match=next(iter(change)).rstrip("s")):
        InfluenceConfig(dataset="karate", **change)


@pytest.mark.filterwarnings("ignore:.*one forward pass per:UserWarning")
@pytest.mark.parametrize("of", ["edges", "nodes"])
def test_influence_on_whole_graphs_against_brute_force(tmp_path, of):
    """All estimators that are taken by default run, and the exact one agrees with one forward pass per item."""
    words = f"--dataset shapes --task graph_classification --of {of} --num-items 8 --truth brute --no-progress"
    assert call(*SMALL, *words.split(), "--out", str(tmp_path)) == 0
    rows = {row["estimator"]: row for row in json.loads((tmp_path / "influence.json").read_text())}
    assert {"exact", "first_order"} <= set(rows)
    assert not any(row["error"] for row in rows.values())
    found = np.load(tmp_path / "influence.npz")
    assert np.abs(found["truth"]).max() > 1e-4
    assert found["estimate/exact"] == pytest.approx(found["truth"], rel=1e-3, abs=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--dataset karate --task graph_classification",
            "many graphs for task 'graph_classification'.*'karate', one graph",
        ),
        ("--dataset shapes --task node_classification", "another data set.*'shapes', many graphs"),
    ],
)
def test_tasks_that_the_data_do_not_have_are_refused_before_training(tmp_path, capsys, words, message):
    assert re.search(message, refusal(capsys, "influence", *words.split(), "--out", str(tmp_path)))
    assert not (tmp_path / "models").exists()
