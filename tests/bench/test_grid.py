import csv
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import gunlearn as gu
from gunlearn.bench import Cell, GridConfig, ModelStore, Recipe, run_grid, suite
from gunlearn.bench.course import Course
from gunlearn.bench.store import RowStore, csv_text, json_plain
from gunlearn.bench.workers import end_with
from gunlearn.datasets import load
from gunlearn.errors import DatasetNotFoundError, EmptyForgetSetError, InvalidInputError, UnsupportedMethodError
from gunlearn.methods import METHODS, Callback, Result, run_method
from gunlearn.metrics import LinkEvaluator, histogram
from gunlearn.nn import GCN
from gunlearn.report import grid_report
from gunlearn.requests import ForgetEdges
from gunlearn.tasks import LinkPrediction, as_task, link_split, node_split
from tests.bench.cases import RECIPE, row_of, same
from tests.methods.cases import same_weights

CONFIG = GridConfig(
    dataset="karate",
    methods=("retrain", "utu", "gradient_ascent", "npo:default"),
    count=6,
    seeds=(0, 1),
    recipe=RECIPE,
    method_args=("epochs=4", "npo.beta=2"),
    threads=1,
)
REQUIRED = """
dataset method mode seed ratio region num_forget
retain_auc retain_ap forget_auc forget_ap forget_prob retain_prob
js_forget js_test js_retain js_floor_forget js_floor_test js_floor_retain
seconds seconds_per_epoch epochs peak_memory_mb
request_hash versions protocol by options notes
""".split()


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    out = tmp_path_factory.mktemp("grid")
    return out, run_grid(CONFIG, out)


@pytest.fixture(scope="module")
def rows(grid):
    return grid[1]


def test_rows_are_complete_and_typed(rows):
    methods = ["original", "retrain", "utu", "gradient_ascent", "npo"]
    assert [(row["seed"], row["method"]) for row in rows] == [(s, m) for s in (0, 1) for m in methods]
    for row in rows:
        assert not set(REQUIRED) - set(row)
        assert row["error"] is None
        assert row["num_forget"] == 6
        assert all(isinstance(row[name], float) and math.isfinite(row[name]) for name in REQUIRED[7:19])  # the figures
        assert isinstance(row["versions"], dict)
        assert (sum(row["hist_forget"]), len(row["hist_forget"])) == (6, 40)


def test_absent_figures_are_none_not_zero(rows):
    original, utu = row_of(rows, "original"), row_of(rows, "utu")
    assert [original[name] for name in ("seconds", "seconds_per_epoch", "epochs", "peak_memory_mb")] == [None] * 4
    assert original["base_seconds"] > 0
    assert (utu["seconds_per_epoch"], utu["curve"]) == (None, [])


def test_options_reach_the_methods(rows):
    npo = row_of(rows, "npo")
    assert (npo["epochs"], npo["options"]["epochs"], npo["options"]["beta"]) == (4, 4, 2)
    assert row_of(rows, "retrain")["epochs"] == RECIPE.epochs  # epochs=4 was not for it


def test_course_has_first_and_last_epoch(rows):
    npo = row_of(rows, "npo")
    assert [point["epoch"] for point in npo["curve"]] == [0, 1, 2, 3, 4]
    assert all(npo["curve"][-1][name] == npo[name] for name in ("retain_auc", "forget_auc"))


def kept(out, seed, data):
    paths = (out / "models").glob("*/result.json")
    results = [Result.load(path.parent, GCN(data.num_features, 8, 4)) for path in paths]
    (model,) = (result.model for result in results if (result.method, result.seed) == ("retrain", seed))
    return model


def test_retrain_row_is_that_of_the_models_kept_under_its_seeds(grid):
    """By the evaluator that tests/metrics holds against scikit-learn and scipy."""
    out, rows = grid
    row = row_of(rows, "retrain", seed=1)
    data = link_split(load("karate"), seed=1)
    partition = ForgetEdges(count=6, seed=1).resolve(data)
    assert row["request_hash"] == partition.request_hash
    references = [kept(out, seed, data) for seed in (1001, 2001)]
    evaluator = LinkEvaluator(LinkPrediction(), partition, references, seed=1)
    expected = evaluator.row(references[0])
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert row["js_floor_forget"] == row["js_forget"]  # its only other reference is the one the floor compares with
    p = evaluator.view(references[0]).probability("forget").numpy()
    assert row["hist_forget"] == np.histogram(p, bins=40, range=(0, 1))[0].tolist()


def test_original_row_reads_the_full_graph(rows):
    row = row_of(rows, "original")
    assert row["forget_prob"] != row_of(rows, "utu")["forget_prob"]  # the same weights on the retained graph
    assert (row["mode"], row["options"]) == ("full graph", {})


def test_second_run_computes_nothing(grid, monkeypatch):
    out, rows = grid
    monkeypatch.setattr("gunlearn.bench.grid.run_method", None)
    before = (out / "rows.jsonl").read_bytes()
    assert run_grid(CONFIG, out) == rows
    assert (out / "rows.jsonl").read_bytes() == before


def counted_runs(monkeypatch):
    """Names of the methods that grids run from now on."""
    calls = []
    monkeypatch.setattr("gunlearn.bench.grid.run_method", lambda *a: calls.append(a[0].name) or run_method(*a))
    return calls


def test_killed_run_goes_on(grid, tmp_path, monkeypatch):
    out, rows = grid
    text = (out / "rows.jsonl").read_bytes()
    lines = text.splitlines(keepends=True)
    (tmp_path / "rows.jsonl").write_bytes(b"".join(lines[:6]) + lines[6][:100])  # cut inside the seventh line
    (tmp_path / "models").symlink_to(out / "models")
    calls = counted_runs(monkeypatch)
    again = run_grid(CONFIG, tmp_path)
    assert same(again) == same(rows)
    assert again[:6] == rows[:6]  # with their seconds: they were kept, not computed again
    assert len(calls) == 3  # utu, gradient_ascent, npo of seed 1; retrain is the seventh row, from its saved model
    assert len(RowStore(tmp_path / "rows.jsonl").read()) == len(rows)
    assert json.loads((tmp_path / "results.json").read_text()) == again


def test_other_options_are_other_rows(grid, tmp_path):
    out, rows = grid
    config = replace(CONFIG, method_args=("epochs=4", "npo.beta=3"), seeds=(0,), models=out / "models")
    (tmp_path / "rows.jsonl").write_bytes((out / "rows.jsonl").read_bytes())
    again = run_grid(config, tmp_path)
    assert again[:4] == rows[:4]
    assert again[4]["options"]["beta"] == 3
    assert again[4]["key"] != rows[4]["key"]


def test_two_processes_give_the_same_rows(rows, tmp_path):
    for one, two in zip(same(rows), same(run_grid(CONFIG, tmp_path, n_jobs=2)), strict=True):
        assert {name: (value, two[name]) for name, value in one.items() if value != two[name]} == {}


def test_outputs(grid):
    out, rows = grid
    assert json.loads((out / "results.json").read_text()) == rows
    with open(out / "results.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["method"] for row in table] == [row["method"] for row in rows]
    assert table[0]["seconds"] == ""
    assert float(table[1]["retain_auc"]) == rows[1]["retain_auc"]
    assert json.loads(table[1]["versions"]) == rows[1]["versions"]
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_a_failed_method_is_a_row_and_is_tried_again(grid, tmp_path, monkeypatch):
    out, _ = grid
    config = replace(CONFIG, seeds=(0,), models=out / "models", method_args=("npo.lr=1e30",))
    rows = run_grid(config, tmp_path)
    bad = rows[-1]
    assert bad["method"] == "npo"
    assert "finite" in bad["error"]
    assert all(bad[name] is None for name in REQUIRED[7:23])
    assert [row["error"] for row in rows[:-1]] == [None] * 4
    calls = counted_runs(monkeypatch)
    run_grid(config, tmp_path)
    assert calls == ["npo"]
    assert "failed" in grid_report(rows, tmp_path / "report.html").read_text()


def test_without_references_distances_are_none(grid, tmp_path):
    out, rows = grid
    with pytest.raises(InvalidInputError, match="references=True for the method 'retrain'"):
        replace(CONFIG, references=False)
    config = replace(CONFIG, methods=CONFIG.methods[1:], seeds=(0,), references=False, models=out / "models")
    alone = run_grid(config, tmp_path)
    assert [row["method"] for row in alone] == ["original", "utu", "gradient_ascent", "npo"]
    assert all(row[name] is None for row in alone for name in row if name.startswith("js_"))
    assert [row["forget_auc"] for row in alone] == [row["forget_auc"] for row in (rows[0], *rows[2:5])]


def test_influence_and_official_protocol(tmp_path):
    config = GridConfig("karate", ("utu",), count=4, by="influence", recipe=RECIPE, models=tmp_path / "m")
    by_influence = run_grid(config, tmp_path / "a")
    random = run_grid(GridConfig("karate", ("utu",), count=4, recipe=RECIPE, models=tmp_path / "m"), tmp_path / "b")
    assert by_influence[0]["request_hash"] != random[0]["request_hash"]
    # The API chooses the same edges by the same estimator.
    data = link_split(load("karate"), seed=0)
    model = ModelStore(tmp_path / "m", RECIPE, LinkPrediction()).base(data, 0).model
    request = ForgetEdges(count=4, by="influence")
    result = gu.unlearn(model, data, request, "utu")
    assert by_influence[0]["request_hash"] == result.partition.request_hash
    scores = gu.influence(model, data, estimator="brute")
    assert scores[result.partition.forget_mask].min() >= scores[~result.partition.forget_mask].max()
    rows = run_grid(
        GridConfig("lesmis", ("utu",), count=4, protocol="inpo", seeds=(42,), recipe=RECIPE), tmp_path / "c"
    )
    data = link_split(load("lesmis"), seed=42, protocol="inpo")
    expected = ForgetEdges(count=4, seed=42, protocol="inpo", region="in").resolve(data)
    assert {(row["request_hash"], row["region"]) for row in rows} == {(expected.request_hash, "in")}


@pytest.fixture
def problem():
    data = link_split(load("karate"), seed=0)
    return data, ForgetEdges(count=5).resolve(data), LinkPrediction()


def test_course_leaves_random_state_and_mode_alone(problem):
    data, partition, task = problem
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GCN(data.num_features, 8, 4, dropout=0.5)
    evaluator, seen = LinkEvaluator(task, partition), []

    class Watch(Callback):
        def on_epoch_end(self, args, state, control, *, model, **kwargs):
            seen.append((model.training, torch.get_rng_state().sum().item()))

    method = METHODS["npo"](epochs=5)
    plain_run = run_method(method, model, partition, task, 0, [Watch()])
    without, course = list(seen), Course(evaluator)
    seen.clear()
    watched = run_method(method, model, partition, task, 0, [course, Watch()])
    assert seen == without
    assert same_weights(plain_run.model, watched.model)
    assert len(course.curve) == 6


def test_course_of_a_long_run_has_about_fifteen_points(problem):
    data, partition, task = problem
    course = Course(LinkEvaluator(task, partition))
    run_method(METHODS["finetune"](epochs=200), GCN(data.num_features, 4, 2), partition, task, 0, [course])
    epochs = [point["epoch"] for point in course.curve]
    assert epochs == sorted(set(epochs))
    assert (epochs[0], epochs[-1]) == (0, 200)
    assert 10 <= len(epochs) <= 17


def test_histogram_against_numpy():
    p = torch.rand(500, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert histogram(torch.cat([p, torch.tensor([0.0, 1.0])])) == (
        np.histogram(np.r_[p.numpy(), 0, 1], bins=40, range=(0, 1))[0].tolist()
    )


def test_json_has_no_nan():
    given = {"a": float("nan"), "b": (1, math.inf, 0.0), "c": None}
    assert json_plain(given) == {"a": None, "b": [1, None, 0.0], "c": None}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"methods": ("nope",)}, "nope"),
        ({"methods": ("inpo:nope",)}, "nope"),
        ({"method_args": ("bta=1",)}, "beta"),
        ({"method_args": ("inpo.beta=1",)}, "inpo.beta"),
        ({"method_args": ("epochs",)}, "key=value"),
        ({"method_args": ("npo.epochs=abc",)}, "abc"),
        ({"method_args": ("retrain.epochs=5",)}, "--epochs"),
        ({"count": None, "ratio": 1.5}, "ratio"),
        ({"protocol": "inpo", "region": "out"}, "region"),
        ({"seeds": (1, 1)}, "seeds"),
        ({"seeds": (-1,)}, "seeds"),
        ({"seeds": ()}, "seeds"),
        ({"threads": 0}, "thread"),
        ({"task": "causal_lm"}, "node_classification"),
        ({"forget": "rows"}, "features"),
        ({"forget": "graphs"}, "graph_classification"),
        ({"protocol": "random split"}, "inpo"),
        ({"forget": "nodes", "region": "in"}, "region"),
        ({"task": "node_classification", "protocol": "inpo"}, "protocol"),
        ({"device": "gpu"}, "device"),
    ],
)
def test_refused_before_anything_runs(change, words):
    with pytest.raises(InvalidInputError, match=words):
        replace(CONFIG, **change)


@pytest.mark.parametrize("change", [{"epochs": -1}, {"lr": 0.0}, {"eval_every": 0}, {"num_layers": 0}])
def test_recipes_are_refused_at_once(change):
    with pytest.raises(InvalidInputError, match=next(iter(change))):
        Recipe(**change)


def test_data_sets_that_do_not_exist_are_refused_at_once(tmp_path, monkeypatch):
    with pytest.raises(DatasetNotFoundError, match="karate"):
        Cell("karat", "random", 0.1, None, "any", "random", 0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "karat").mkdir()
    assert Cell("karat", "random", 0.1, None, "any", "random", 0).name == "karat"


def test_a_suite_of_one_and_one_that_is_refused():
    assert suite(**vars(CONFIG)) == [CONFIG]  # seeds and methods are not combined
    with pytest.raises(InvalidInputError, match="region"):
        suite(dataset="karate", methods=("utu",), forget=("edges", "nodes"), ratio=0.1, region="in")


def test_several_problems_in_one_run(grid, tmp_path):
    """The rows of each are those of a grid of its own; a method that cannot do one of them fails there alone."""
    out, rows = grid
    links = replace(CONFIG, seeds=(0,), models=out / "models")
    nodes = suite(
        dataset="digits", methods=("megu:default",), method_args=("epochs=2",), forget=("nodes", "features"), count=9,
        task=("node_classification", "link_prediction"), recipe=RECIPE, references=False,
    )  # fmt: skip
    found = run_grid([links, *nodes], tmp_path)
    assert same(found[:5]) == same(rows[:5])
    assert [(r["forget"], r["task"], r["method"], bool(r["error"])) for r in found[5:]] == [
        (forget, task, method, method == "megu" and task == "link_prediction")
        for forget in ("nodes", "features")
        for task in ("node_classification", "link_prediction")
        for method in ("original", "utu", "megu")
    ]
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == found
    assert json.loads((tmp_path / "results.json").read_text()) == found
    for wrong in ([], [links, *nodes, links]):
        with pytest.raises(InvalidInputError, match="twice"):
            run_grid(wrong, tmp_path)


def test_unresolvable_request_is_told_before_training(tmp_path):
    config = GridConfig("karate", ("utu",), ratio=0.001, recipe=RECIPE)
    with pytest.raises(EmptyForgetSetError):
        run_grid(config, tmp_path)
    assert not (tmp_path / "models").exists()


def test_every_variant_once_and_presets_by_data_set():
    first, *plan = GridConfig("dblp", ("inpo", "inpo:paper"), count=3).plan()
    assert first.name == "utu"  # what all must beat
    assert len(plan) == len(METHODS["inpo"].variants)
    assert {method.dataset for method in plan} == {"DBLP"}
    assert GridConfig("dblp", ("inpo:paper",), count=3).plan()[1].epochs == 330  # the authors' table


def test_models_are_kept_by_what_was_forgotten_too(tmp_path):
    """A cache keyed without the ratio would hand out the model retrained without other edges."""
    rows = []
    for ratio in (0.05, 0.2):
        config = GridConfig("karate", ("utu",), ratio=ratio, recipe=RECIPE, models=tmp_path / "models")
        rows.append(run_grid(config, tmp_path / str(ratio))[1])
    assert [row["method"] for row in rows] == ["retrain", "retrain"]
    assert rows[0]["request_hash"] != rows[1]["request_hash"]
    assert rows[0]["retain_prob"] != rows[1]["retain_prob"]
    assert len([f for f in (tmp_path / "models").iterdir() if f.is_dir()]) == 1 + 2 * 2  # one base, two references each


def test_labels_and_masks_make_no_classes_of_embeddings(tmp_path):
    """Planetoid's graphs bring both: under link prediction the model has the recipe's outputs all the same."""
    data = node_split(link_split(load("digits"), seed=0), seed=0)
    assert data.y.max() == 9
    recipe = replace(RECIPE, out_channels=5)
    for task, width in (("link_prediction", 5), ("node_classification", 10)):
        model = ModelStore(tmp_path, recipe, as_task(task)).base(data, 0).model
        assert model(data.x, data.edge_index).size(1) == width


def test_a_damaged_model_is_named_and_trained_again(grid, tmp_path):
    models = tmp_path / "models"
    config = replace(CONFIG, methods=("utu",), seeds=(0,), models=models, references=False, method_args=())
    whole = run_grid(config, tmp_path / "a")
    (folder,) = [path for path in models.iterdir() if path.is_dir()]
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.warns(UserWarning, match=folder.name):
        again = run_grid(config, tmp_path / "b")
    assert same(again) == same(whole)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_grid(config, tmp_path / "c")


def test_a_method_that_can_do_some_of_the_problems_is_run_on_these(grid, tmp_path):
    problems = suite(dataset="karate", methods=("inpo:default",), forget=["edges", "nodes"], count=2, recipe=RECIPE,
                     method_args=("inpo.epochs=1",))  # fmt: skip
    rows = run_grid(problems, tmp_path)
    assert [row["forget"] for row in rows if row["error"]] == ["nodes"]
    with pytest.raises(UnsupportedMethodError, match="'inpo'"):
        run_grid(problems[1], tmp_path / "none")


def test_rows_of_the_same_failure_are_kept_once(tmp_path):
    store = RowStore(tmp_path / "rows.jsonl")
    failures = [{"key": "a", "error": text} for text in ("one", "one", "other")]
    assert [store.add(row)["error"] for row in failures] == ["one", "one", "other"]
    assert len(store.path.read_text().splitlines()) == 2
    store.add({"key": "a", "error": None})
    assert store.add({"key": "a", "error": "late"})["error"] is None


@pytest.mark.parametrize(
    ("value", "written"),
    [("=1+1", "'=1+1"), ("+a", "'+a"), ("-a", "'-a"), ("@a", "'@a"), (" =a", "' =a"), ("a=b", "a=b"), (-1.5, "-1.5"),
     (None, "")],
)  # fmt: skip
def test_no_text_is_a_formula(value, written):
    (row,) = csv.DictReader(csv_text([{"name": value, "other": 1}]).splitlines())
    assert row["name"] == written
    assert csv_text([{"=head": 1}]).startswith("'=head")


@pytest.mark.skipif(sys.platform == "win32", reason="parents are told otherwise there")
def test_a_worker_ends_with_its_parent(tmp_path):
    child = "import os, time; from gunlearn.bench.workers import end_with; end_with(os.getppid(), 0.05); time.sleep(60)"
    start = f"p = subprocess.Popen([sys.executable, '-c', {child!r}]); print(p.pid, flush=True); p.wait()"
    parent = f"import subprocess, sys; {start}"
    started = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    pid = int(started.stdout.readline())
    time.sleep(1.5)  # time to import
    assert started.poll() is None
    os.kill(pid, 0)
    started.kill()
    started.wait()
    for _ in range(100):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().split(")")[1].split()[0] == "Z":
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the worker outlived its parent")


def test_a_process_that_is_no_child_is_left_alone():
    end_with(os.getpid(), 0.01)
    assert not [t for t in threading.enumerate() if t.name == "ends with its parent"]


def test_cells_end_with_the_process_that_started_them(grid, tmp_path, monkeypatch):
    parents = []
    monkeypatch.setattr("gunlearn.bench.grid.end_with", parents.append)
    run_grid(replace(CONFIG, methods=("utu",), method_args=(), seeds=(0,), models=grid[0] / "models"), tmp_path)
    assert parents == [os.getpid()]
