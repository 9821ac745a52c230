import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import stats

import gunlearn as gu
from gunlearn.attribution import ESTIMATORS, Estimator
from gunlearn.attribution.study.agreement import agreement
from gunlearn.attribution.study.study import influence_study
from gunlearn.attribution.study.truths import TRUTHS, TrueValues, Truth
from gunlearn.bench import read_study, write_study
from gunlearn.bench.store import json_plain
from gunlearn.errors import CheckpointError, InvalidInputError, InvalidTypeError, UnsupportedMethodError
from gunlearn.report.influence_table import (
    influence_markdown_table,
    influence_report,
    study_cells,
    study_footnotes,
)
from tests.methods.cases import make_data, trained_model

ROW = {
    "dataset", "model", "of", "target", "estimator", "truth", "spearman", "spearman_ci", "kendall", "pearson",
    "precision_at_1pct", "seconds", "peak_memory_mb", "num_items",
}  # fmt: skip


@dataclass(frozen=True)
class Made(Estimator):
    """Scores that the test makes: a power of the true ones."""

    sign: float = 1.0
    fail: str = ""

    name = "made"
    summary = "of the test"
    question = "removal"
    of = ("edges", "nodes")
    targets = ("distance", "value")

    def scores(self, problem):
        if self.fail == "nan":
            return torch.full((problem.items.num_items,), float("nan"))
        if self.fail:
            raise RuntimeError(self.fail)
        problem.notes["said"] = self.sign
        true = ESTIMATORS["brute"]().scores(problem)
        return self.sign * true.sign() * true.abs() ** 3


@pytest.fixture(scope="module")
def data():
    return make_data()


@pytest.fixture(scope="module")
def model():
    return trained_model("sage")


@pytest.fixture(scope="module")
def run(model, data):
    """A small study by brute force of the given estimators."""

    def run(*estimators, **more):
        few = {"truth": "brute", "num_items": 5, "num_resamples": 50}
        return influence_study(model, data, estimators=estimators or None, **few | more)

    return run


@pytest.fixture(scope="module")
def study(run):
    return run(Made(), Made(sign=-1.0), "degree", "random", "brute", num_items=40, dataset="made")


def test_rows_have_the_fields_and_are_json(study):
    for row in study.rows:
        assert set(row) >= ROW
        assert (row["dataset"], row["model"], row["of"], row["target"]) == ("made", "Stack", "edges", "probabilities")
        assert (row["num_items"], row["truth"], row["error"]) == (40, "brute", None)
        assert row["seconds"] > 0
    json.dumps(json_plain(study.rows), allow_nan=False)


def test_figures_are_those_of_the_scores(study, model, data):
    assert set(study.estimates) == {"made", "made (sign=-1.0)", "degree", "random", "brute"}
    scores = gu.influence(model, data, estimator="brute", items=study.items)
    torch.testing.assert_close(study.truth, scores)
    degree = gu.influence(model, data, estimator="degree", items=study.items)
    torch.testing.assert_close(study.estimates["degree"], degree)
    assert study["degree"]["spearman"] == pytest.approx(stats.spearmanr(scores, degree).statistic)
    assert study["made"]["spearman"] == pytest.approx(1)
    assert study["made"]["pearson"] < 0.999
    assert study["made (sign=-1.0)"]["spearman"] == pytest.approx(-1)
    assert study["made"]["notes"] == {"said": 1.0}


def test_the_truth_among_the_estimators_is_marked_and_computed_once(study, run, monkeypatch):
    assert [row["is_truth"] for row in study.rows] == [False, False, False, False, True]
    calls = []
    plainly = ESTIMATORS["brute"].scores
    monkeypatch.setattr(ESTIMATORS["brute"], "scores", lambda self, p: calls.append(1) or plainly(self, p))
    again = run("brute")
    assert len(calls) == 1
    assert again["brute"]["spearman"] == pytest.approx(1)
    assert again["brute"]["seconds"] == again.settings["truth_seconds"]


def test_what_does_not_beat_the_controls_is_marked(study, run):
    assert study["made (sign=-1.0)"]["behind"] == ["random", "degree"]
    assert study["made"]["behind"] == study["brute"]["behind"] == study["random"]["behind"] == []
    marked = {row["estimator"]: study_cells(row)[0] for row in study.rows}
    assert marked["made (sign=-1.0)"].endswith(" *")
    assert marked["brute"].endswith(" =")
    assert marked["made"] == "made"
    assert sum(note[0] in "*=" for note in study_footnotes(study.rows)) == 2
    # Degrees are a bar even where nobody asked for them.
    assert study["degree"]["spearman"] > 0.05
    alone = run(Made(sign=-1.0), num_items=40)
    assert alone["made"]["behind"] == ["random", "degree"]
    assert [row["estimator"] for row in alone.rows] == ["made"]


def test_estimators_of_the_other_question_are_marked(run, monkeypatch):
    monkeypatch.setattr(Made, "question", "training")
    study = run(Made(), "random")
    assert study_cells(study["made"])[0] == "made †"
    assert "†" not in study_cells(study["random"])[0]


def test_a_failing_estimator_has_a_row_and_the_others_go_on(run):
    told = []
    study = run(Made(fail="out of\n memory"), Made(fail="nan"), "degree", report=told.append)
    assert told == study.rows
    assert study.rows[0]["error"] == "out of memory"
    assert "finite" in study.rows[1]["error"]
    assert study.rows[0]["spearman"] is study.rows[0]["seconds"] is None
    assert study.rows[2]["error"] is None
    assert set(study.estimates) == {"degree"}
    assert "features" in run("degree", "random", of="features")["degree"]["error"]


def test_truth_of_a_sample_of_the_items(run, model, data):
    given = {"num_items": None, "truth_items": 7}
    study = run("degree", "brute", seed=3, **given)
    assert study.truth.shape == (7,)
    for name, scores in (("brute", study.truth), ("degree", study.estimates["degree"])):
        torch.testing.assert_close(scores, gu.influence(model, data, estimator=name, items=study.items))
    distinct = data.edge_index.size(1) // 2
    assert (study["degree"]["num_items"], study["degree"]["num_scored"]) == (7, distinct)
    assert study["brute"]["num_scored"] == 7
    assert not study.items.equal(run("degree", seed=4, **given).items)


@pytest.mark.parametrize(("of", "target", "kind"), [("nodes", "probabilities", "distance"), ("edges", "loss", "value")])
def test_by_default_all_that_fit_the_question_and_the_target(run, of, target, kind):
    study = run(of=of, target=target, truth="removal")
    named = {row["estimator"] for row in study.rows}
    fit = {name for name, cls in ESTIMATORS.items() if of in cls.of and kind in cls.targets and name != "brute"}
    of_the_question = {name for name in fit if ESTIMATORS[name].question == "removal" or name in ("random", "degree")}
    assert fit & {"nora", "degree", "random"} <= named <= of_the_question
    assert study.settings["signed"] == (kind == "value")


def test_same_seed_same_study_and_nobody_is_touched(run, model):
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    runs = [run("random", "nora", num_items=9) for _ in range(2)]
    for name in ("random", "nora"):
        assert runs[0].estimates[name].equal(runs[1].estimates[name])
        assert runs[0][name]["spearman_ci"] == runs[1][name]["spearman_ci"]
    assert state.equal(torch.get_rng_state())
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    assert model.training


def test_truths_of_groups_compare_sums(run, model, data, monkeypatch):
    groups = [torch.tensor([0, 1]), torch.tensor([2]), torch.tensor([0, 3, 4]), torch.tensor([1, 4])]
    values = torch.tensor([3.0, 1.0, 4.0, 1.5])
    truth = Truth("grouped", "training", "made", lambda p, train, options: TrueValues(values, groups, {"floor": 1}))
    monkeypatch.setitem(TRUTHS, "grouped", truth)
    study = run("degree", truth="grouped")
    degree = gu.influence(model, data, estimator="degree", items=study.items)
    sums = np.array([float(degree[g].sum()) for g in groups])
    assert study["degree"]["spearman"] == pytest.approx(agreement(values, sums, num_resamples=1)["spearman"])
    assert study["degree"]["num_items"] == 4
    assert study.settings["truth_notes"] == {"floor": 1}
    assert study.settings["grouped"]


def test_options_that_truth_and_estimators_share(run, monkeypatch):
    said = []

    def compute(problem, train, options):
        said.append(options)
        return TrueValues(torch.arange(5.0))

    monkeypatch.setitem(TRUTHS, "shared", Truth("shared", "removal", "made", compute, defaults={"beta": 3.0}))
    given = ({}, {"truth_options": {"beta": 4.0}}, {"options": {"nora": {"beta": 5.0}}})
    assert [run("nora", truth="shared", **more)["nora"]["options"]["beta"] for more in given] == [3, 4, 5]
    assert said == [{"beta": 3.0}, {"beta": 4.0}, {"beta": 3.0}]


def test_written_and_read_and_drawn(study, tmp_path):
    write_study(study, tmp_path)
    assert json.loads((tmp_path / "influence.json").read_text()) == json_plain(study.rows)
    assert (tmp_path / "influence.csv").read_text().count("\n") == 1 + len(study.rows)
    again = read_study(tmp_path)
    assert again.truth.equal(study.truth)
    assert all(again.estimates[name].equal(scores) for name, scores in study.estimates.items())
    report = influence_report(again, tmp_path / "r.html").read_text()
    assert report.count("<img") == 4
    assert "<script" not in report
    for row in study.rows:
        assert row["estimator"] in report
    assert "as it is and the graph changes" in report
    assert influence_markdown_table(study.rows).count("\n| ") == 1 + len(study.rows)
    (tmp_path / "influence.npz").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="influence"):
        read_study(tmp_path)


def test_report_of_failures_and_constants_alone(run, tmp_path):
    study = run(Made(fail="<script>$x_$"), num_items=2, dataset="a<b$")
    html = influence_report(study, tmp_path / "r.html").read_text()
    assert "<script" not in html
    assert "made failed" in html


@pytest.mark.parametrize(
    ("more", "error", "words"),
    [
        ({"truth": "nope"}, InvalidInputError, "truth"),
        ({"estimators": ["nope"]}, InvalidInputError, "estimator"),
        ({"estimators": []}, InvalidInputError, "at least one"),
        ({"estimators": "nora"}, InvalidInputError, "list"),
        ({"options": {"nora": {"gamma": 1}}}, InvalidInputError, "gamma"),
        ({"options": {"brut": {}}}, InvalidInputError, "brut"),
        ({"num_items": 0}, InvalidInputError, "num_items"),
        ({"truth_items": -1}, InvalidInputError, "truth_items"),
        ({"truth": "pbrf"}, UnsupportedMethodError, "value"),
        ({"truth": "nora", "of": "features"}, UnsupportedMethodError, "features"),
        ({"target": "nope"}, InvalidInputError, "target"),
        ({"items": [[0], [10**6]]}, InvalidInputError, "nodes"),
        ({"model": len}, InvalidTypeError, "model"),
        ({"data": torch.ones(2, 1)}, InvalidTypeError, "data"),
    ],
)
def test_wrong_input(model, data, more, error, words):
    given = {"model": model, "data": data, "estimators": ["nora"], "truth": "brute", "num_items": 3}
    with pytest.raises(error, match=words):
        influence_study(**given | more)
