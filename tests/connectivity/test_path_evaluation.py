"""Figures along a path: losses and barriers by plain arithmetic, figures as `evaluate` has them, files, pictures."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import gunlearn as gu
from gunlearn.connectivity import BezierPath, LinearPath, PathEvaluation, barrier, connect, evaluate_path, path_summary
from gunlearn.errors import CheckpointError, DivergenceError, InvalidInputError
from gunlearn.metrics import Figure, evaluator
from gunlearn.metrics.view import ModelView
from tests.connectivity.cases import gnn, graph, items, perceptron, trained

TASK = gu.ImageClassification()


@pytest.fixture(scope="module")
def problem():
    data = items()
    partition = gu.ForgetItems(count=6).resolve(data)
    return data, partition, [trained(perceptron(seed), data, seed) for seed in range(3)]


def test_losses_and_barriers_are_those_of_plain_loops(problem) -> None:
    data, partition, (first, second, _) = problem
    found = evaluate_path(LinearPath(first, second), TASK, partition, points=5)
    expected = []
    for k in range(5):
        t, model = k / 4, perceptron()
        mixed = {n: (1 - t) * p + t * second.state_dict()[n] for n, p in first.state_dict().items()}
        model.load_state_dict(mixed)
        expected.append(
            [float(nn.functional.cross_entropy(model(data.x[m]), data.y[m])) for m in
             (partition.retain_mask, partition.forget_mask, data.val_mask)]
        )  # fmt: skip
    for row, values in zip(found.rows, expected, strict=True):
        assert [row["loss_retain"], row["loss_forget"], row["loss_val"]] == pytest.approx(values, abs=1e-5)
    retain = [v[0] for v in expected]
    above = max(v - ((1 - k / 4) * retain[0] + k / 4 * retain[-1]) for k, v in enumerate(retain))
    assert found.barrier_retain == pytest.approx(above, abs=1e-5)
    forget = [min(v[1], 8.0) for v in expected]
    below = max((1 - k / 4) * forget[0] + k / 4 * forget[-1] - v for k, v in enumerate(forget))
    assert found.barrier_forget == pytest.approx(below, abs=1e-5)
    assert found.connected is (above <= 0.1 and below <= 0.1)
    for tolerance in (0.0, above + below + 1):  # the verdict follows its tolerances
        told = {"tolerance_retain": tolerance, "tolerance_forget": tolerance}
        again = evaluate_path(LinearPath(first, second), TASK, partition, points=5, **told)
        assert again.connected is (max(above, below) <= tolerance)


def test_a_loss_above_the_bound_does_not_count() -> None:
    rows = [{"t": t, "arc": t, "loss_retain": 0.1, "loss_forget": v} for t, v in ((0.0, 30.0), (0.5, 9.0), (1.0, 20.0))]
    assert PathEvaluation("linear", rows).barrier_forget == 0
    assert PathEvaluation("linear", rows, bound_forget=math.inf).barrier_forget == 16
    assert PathEvaluation("linear", rows).connected
    rows[1]["loss_forget"] = 5.0  # control: below the bound it does
    assert PathEvaluation("linear", rows).barrier_forget == 3


def test_figures_are_those_of_evaluate(problem) -> None:
    _data, partition, (first, second, reference) = problem

    class Sure(Figure):
        """Mean probability of the likeliest class on test items."""

        name, heading = "sure", "sure"

        def compute(self, view: ModelView) -> float | None:
            return float(view.probability("test").amax(-1).mean())

    path = LinearPath(first, second)
    found = evaluate_path(path, TASK, partition, points=3, references=[reference], metrics=[Sure(), "mia_acc"])
    judge = evaluator(TASK, partition, [reference], metrics=[Sure(), "mia_acc"])
    for row in found.rows:
        expected = judge.row(path.model_at(row["t"]))
        assert {n: row[n] for n in expected} == {n: pytest.approx(v, abs=1e-6) for n, v in expected.items()}
    assert {"sure", "mia_acc", "js_forget", "forget_acc"} <= set(found.rows[0])
    assert found.references[0]["forget_acc"] == judge.row(reference)["forget_acc"]


def test_summaries_weigh_by_arc_length() -> None:
    assert path_summary([1.0, 3.0, 3.0], [0.0, 1.0, 4.0]) == {
        "first": 1.0, "last": 3.0, "min": 1.0, "max": 3.0, "mean": pytest.approx(7 / 3),
        "integral": pytest.approx((2 * 1 + 3 * 3) / 4),
    }  # fmt: skip
    assert path_summary([1.0, None], [0.0, 1.0]) is None
    assert path_summary([2.0, 4.0], [0.0, 0.0])["integral"] == 3.0  # two equal models
    assert barrier([0, 0.5, 1], [1.0, None, 1.0]) is None
    assert barrier([0, 0.5, 1], [1.0, 0.0, 1.0]) == 0


def test_arc_lengths_add_up(problem) -> None:
    _data, partition, (first, second, _) = problem
    line = evaluate_path(LinearPath(first, second), TASK, partition, points=7)
    one, two = (torch.cat([p.flatten() for p in m.parameters()]) for m in (first, second))
    assert line.rows[-1]["arc"] == pytest.approx(float((one - two).norm()), rel=1e-5)
    path = BezierPath(first, second)
    with torch.no_grad():
        for bend in path.bends:
            bend.add_(1)
    assert evaluate_path(path, TASK, partition, points=7).rows[-1]["arc"] > line.rows[-1]["arc"]


def test_links_are_judged_by_pairs_drawn_once() -> None:
    data = gu.link_split(gu.load("karate"), val_ratio=0.1, test_ratio=0.1)
    models = [gu.train(gu.GCN(data.num_features), data, epochs=40, seed=seed).model for seed in (0, 1)]
    request = gu.ForgetEdges(count=4)
    found, again = (connect(*models, data, request, "link_prediction", points=3) for _ in range(2))
    assert found.evaluation.rows == again.evaluation.rows
    row = found.evaluation.rows[0]
    assert row["retain_auc"] is not None
    # Control: with edges alone the loss would be that of a model that joins everything.
    partition = request.resolve(data)
    z = models[0](data.x, partition.retain_data.edge_index)
    a, b = partition.retain_edge_index
    edges = float(nn.functional.softplus(-(z[a] * z[b]).sum(-1)).mean())
    assert abs(row["loss_retain"] - edges) > 1e-3


def test_without_a_request_there_are_losses_alone() -> None:
    data = graph()
    models = [gu.train(gnn("gcn", data, s), data, "node_classification", epochs=30).model for s in (0, 1)]
    found = connect(*models, data, task="node_classification", points=3)
    assert found.evaluation.rows[0]["loss_forget"] is None
    assert found.evaluation.barrier_forget is None
    assert found.evaluation.barrier_retain is not None
    assert "forget_acc" not in found.evaluation.rows[0]
    assert found.dial.choose(100.0, points=3) == 1.0


def test_files_tables_and_pictures(problem, tmp_path: Path) -> None:
    _data, partition, (first, second, reference) = problem
    found = evaluate_path(LinearPath(first, second), TASK, partition, points=4, references=[reference])
    again = PathEvaluation.load(found.save(tmp_path / "path.json"))
    assert again == found
    saved = json.loads((tmp_path / "path.json").read_text())
    assert saved["barrier_retain"] == found.barrier_retain
    assert saved["summary"] == found.summary()
    assert f"loss_test {saved['summary']['loss_test']['integral']:.4g}" in found.integrals()
    text = found.table()
    assert text.splitlines()[0].split()[:3] == ["t", "loss_retain", "loss_forget"]
    assert len(text.splitlines()) == 1 + 4 + 1 + 1
    assert "barrier of the retained items" in text
    assert (tmp_path / "path.png") == found.plot(tmp_path / "path.png")
    assert (tmp_path / "path.png").read_bytes()[:4] == b"\x89PNG"
    assert b"<svg" in found.plot(tmp_path / "path.svg").read_bytes()[:500]
    with pytest.raises(CheckpointError, match="saved evaluation of a path"):
        PathEvaluation.load(tmp_path / "path.png")
    with pytest.raises(CheckpointError, match="saved evaluation of a path"):
        PathEvaluation.load(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    "change",
    [
        {"rows": "abc"}, {"rows": []}, {"rows": [{"t": 0}] * 3}, {"references": [3]}, {"tolerance_retain": "x"},
        {"bound_forget": "8"}, {"notes": 3}, {"kind": 3}, {"notes": {"alignment": 3}},
        {"rows": [{"t": 0, "arc": 0, "loss_retain": "1"}] * 3},
    ],
)  # fmt: skip
def test_a_file_of_another_content_is_refused(tmp_path: Path, change: dict) -> None:
    """The control is the file itself; one from before there were `own_ends` is read too."""
    rows = [{"t": t, "arc": t, "loss_retain": 0.1, "loss_forget": None} for t in (0.0, 0.5, 1.0)]
    file = PathEvaluation("linear", rows).save(tmp_path / "path.json")
    saved = json.loads(file.read_text())
    del saved["own_ends"]
    file.write_text(json.dumps(saved))
    assert PathEvaluation.load(file).connected
    file.write_text(json.dumps({**saved, **change}))
    with pytest.raises(CheckpointError, match="saved evaluation of a path"):
        PathEvaluation.load(file)


@pytest.mark.parametrize("points", [1, [0.0, 0.5], [0.0, 0.5, 0.5, 1.0], [0.0, math.nan, 1.0]])
def test_bad_points_are_refused(problem, points: object) -> None:
    _data, partition, (first, second, _) = problem
    with pytest.raises(InvalidInputError, match="points"):
        evaluate_path(LinearPath(first, second), TASK, partition, points=points)


def test_weights_that_overflow_on_the_way_are_refused(problem) -> None:
    _data, partition, (first, second, _) = problem
    path = BezierPath(first, second)
    with torch.no_grad():
        for bend in path.bends:
            bend.fill_(3e38)
    with pytest.raises(DivergenceError, match="on the path"):
        evaluate_path(path, TASK, partition, points=3)
