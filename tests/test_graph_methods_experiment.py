"""The study of all methods: it runs small, and what is committed of it holds what the README says."""

import json

import pytest

from experiments.graph_methods.__main__ import Args, grids, main, methods_of
from gunlearn.methods import METHODS
from gunlearn.report.summary import summarise
from tests.conftest import committed


def test_smoke(tmp_path, capsys):
    args = Args(tmp_path, tasks=("nodes",), datasets=("karate",), backbones=("gcn",), ratios=(0.1,), seeds=(0,),
                methods=("utu", "gif:default", "finetune"), smoke=True)  # fmt: skip
    main(args)
    ((name, rows),) = json.loads((tmp_path / "results.json").read_text()).items()
    assert name == "nodes_gcn_digits_0.05_any"
    assert [row["method"] for row in rows] == ["original", "retrain", "utu", "gif", "finetune"]
    assert not any(row["error"] for row in rows)
    assert "JS forget" in capsys.readouterr().out


def test_every_problem_of_the_protocol_is_in_the_suite_once(tmp_path):
    found = grids(Args(tmp_path))
    problems = {(c.forget, c.recipe.backbone, c.dataset, c.ratio, c.region) for c in found}
    assert len(problems) == len(found) == 4 * 5 * (3 * 3 + 2 + 1)
    assert {config.ratio for config in found if config.forget == "edges"} == {0.005, 0.025, 0.05}
    utu = grids(Args(tmp_path, tasks=("nodes",), methods=("utu",)))
    assert all(config.method_args == () for config in utu)  # it has no penalty to be given


@pytest.mark.parametrize("task", ["links", "nodes", "features"])
def test_every_method_that_takes_the_task_is_in(task):
    names = methods_of(task)
    assert {"utu", "gif", "etr", "scrub", "gnndelete", "auto"} <= set(names) <= set(METHODS)
    assert ("megu" in names) == (task != "links")
    assert ("inpo_s" in names) == (task == "links")


def by_method(problem, seed=0):
    rows = committed("graph_methods")[problem]
    return {(row["method"], row["mode"]): row for row in rows if row["seed"] == seed and not row["error"]}


@pytest.mark.parametrize("dataset", ["DBLP", "CS"])
def test_link_prediction_stays_near_retraining(dataset):
    rows = by_method(f"links_gcn_{dataset}_0.05_any")
    auc = rows["retrain", "default"]["retain_auc"]
    for method, room in (("utu", 0.01), ("gnndelete_ni", 0.01), ("gif", 0.01), ("gnndelete", 0.05)):
        assert abs(rows[method, "default"]["retain_auc"] - auc) <= room, method


def test_what_a_request_costs_on_dblp():
    rows = by_method("links_gcn_DBLP_0.05_any")
    retrain = rows["retrain", "default"]["seconds"]
    for method in ("utu", "gif", "etr", "ceu"):
        assert rows[method, "default"]["seconds"] <= retrain / 20, method
    for method in ("gnndelete", "gnndelete_ni", "scrub", "npo", "graddiff", "inpo"):
        assert rows[method, "default"]["seconds"] <= retrain / 3, method


def test_nodes_of_cora_are_within_three_points_or_marked():
    lines = summarise(committed("graph_methods")["nodes_gcn_Cora_0.1_any"])
    (retrain,) = [line for line in lines if line.method == "retrain"]
    for line in lines:
        if line.method not in ("original", "retrain") and line.rows:
            near = retrain.stat("test_acc").mean - line.stat("test_acc").mean <= 0.03
            assert near != line.fails, line.method
    for method in ("gif", "idea"):
        (line,) = [line for line in lines if line.method == method]
        assert all(row["notes"]["distance"] > 0 for row in line.rows)
