import base64
import re
import statistics
import xml.etree.ElementTree as ET

import matplotlib
import pytest

import gunlearn as gu
from gunlearn.attribution import ESTIMATORS
from gunlearn.bench import GridConfig, run_grid
from gunlearn.losses import LOSSES
from gunlearn.methods import METHODS
from gunlearn.methods.base import NEEDS
from gunlearn.report import (
    estimators_table,
    evaluation_report,
    grid_report,
    losses_table,
    markdown_table,
    methods_table,
    text_table,
)
from gunlearn.report.plots import PLOTS
from gunlearn.report.summary import summarise
from tests.bench.cases import RECIPE
from tests.metrics.cases import problem


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    config = GridConfig(
        "karate",
        ("utu", "npo", "finetune"),
        count=6,
        seeds=(0, 1),
        recipe=RECIPE,
        method_args=("epochs=3",),
    )
    return run_grid(config, tmp_path_factory.mktemp("grid"))


@pytest.fixture(scope="module")
def html(rows, tmp_path_factory):
    return grid_report(rows, tmp_path_factory.mktemp("report") / "r.html").read_text()


def made(method, js, seed=0, floor=0.1, **other):
    return {"method": method, "mode": "default", "seed": seed, "js_forget": js, "js_floor_forget": floor, **other}


def images(html):
    found = re.findall(r'<img src="data:image/svg\+xml;base64,([^"]+)" alt="([^"]*)"', html)
    return {words: base64.b64decode(code) for code, words in found}


def test_report_is_self_contained(html):
    assert set(re.findall(r"https?://[^\"'<\s]+", html)) <= {
        f"https://arxiv.org/abs/{cls.paper.removeprefix('arXiv ')}" for cls in METHODS.values() if cls.paper
    }
    assert "<script" not in html
    assert not re.search(r"<link|@import|url\(", html)


def test_report_has_every_plot_and_method(rows, html):
    drawn = images(html)
    assert set(drawn) == {words for _, words, _ in PLOTS}
    for svg in drawn.values():
        assert ET.fromstring(svg).tag.endswith("svg")
    for method in {row["method"] for row in rows}:
        assert re.search(rf"<td>{method}( \*)?</td>", html)
    assert rows[0]["request_hash"] in html
    assert rows[0]["versions"]["torch"] in html
    assert "certificate" in html


def test_report_escapes(rows, tmp_path):
    evil = [{**row, "dataset": "<script>alert(1)</script>$x_$", "mode": "a$b<c"} for row in rows]
    html = grid_report(evil, tmp_path / "r.html").read_text()
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_report_is_the_same_twice_and_leaves_matplotlib_alone(rows, html, tmp_path):
    before = dict(matplotlib.rcParams)
    assert grid_report(rows, tmp_path / "r.html").read_text() == html
    assert dict(matplotlib.rcParams) == before


def test_report_without_figures(tmp_path):
    html = grid_report([{**made("npo", None), "error": "Expected <b>less</b>"}], tmp_path / "r.html").read_text()
    assert "&lt;b&gt;less" in html
    assert images(html) == {}


def test_means_and_deviations_over_seeds(rows):
    values = [row["retain_auc"] for row in rows if row["method"] == "npo" and row["mode"] == "default"]
    expected = f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"
    (line,) = [line for line in text_table(rows).splitlines() if line.startswith("npo") and " default " in line]
    assert expected in line
    assert expected in markdown_table(rows)


def test_multiples_of_the_floor():
    table = text_table([made("npo", 0.3, 0, 0.1), made("npo", 0.5, 1, 0.3)])
    assert "0.4000 ± 0.1414 (2.0x floor)" in table  # 0.8 / 0.4


def test_mark_of_methods_not_better_than_utu():
    rows = [made("utu", 0.2, s) for s in (0, 1)] + [made("npo", 0.3, 0), made("npo", 0.05, 1), made("finetune", 0.2)]
    marked = [line.method for line in summarise([*rows, made("retrain", 0.9)]) if line.behind_utu]
    assert marked == ["finetune"]  # equal is not better; npo is better on the mean of the same seeds; retrain is exempt
    assert "* no closer" in text_table(rows)
    assert "no closer" not in text_table(rows[:4])


def test_one_run_says_that_noise_is_unknown():
    one = [made("utu", 0.2), made("npo", 0.3), made("retrain", 0.1), made("retrain", 0.1, 1)]
    assert "One run of each method" in text_table(one)
    assert "One run" not in text_table([*one, made("npo", 0.3, 1)])
    assert "One run" not in text_table(one[2:])  # no method


def test_mark_of_differences_within_noise(tmp_path):
    """Paired differences to utu of -.1, +.04 and -.03: their mean is half of two standard errors."""
    rows = [made("utu", 0.2, s) for s in range(3)] + [
        made("npo", 0.2 + d, s) for s, d in enumerate((-0.1, 0.04, -0.03))
    ]
    assert "npo ~" in text_table(rows)
    assert "~ differs from utu" in text_table(rows)
    assert "~ differs from utu" in grid_report(rows, tmp_path / "r.html").read_text()
    assert "~" not in text_table([*rows[:3], *(made("npo", 0.1 + 0.001 * s, s) for s in range(3))])
    assert "~" not in text_table([*rows[:1], *rows[3:4]])  # one run knows no noise


def test_sentences_of_rows_stand_below_the_table_once_each():
    why = "The weights are unchanged: no step."
    rows = [{**made(m, 0.2, s), "unchanged": why} for m in ("npo", "gif", "utu", "retrain") for s in (0, 1)]
    text = text_table([*rows, {**made("etr", 0.01), "suspicious": "The model is nearer."}])
    assert text.count(why) == 1
    assert f"npo (default), gif (default): {why}" in text
    assert "etr (default): The model is nearer." in text
    heads = [line.split("default")[0].strip() for line in text.splitlines()[2:7]]
    assert heads == ["npo *=", "gif *=", "utu", "retrain", "etr ?"]


def test_mark_of_methods_that_lose_utility():
    def row(method, value, seed):
        return {**made(method, 0.2, seed), "retain_auc": value}

    rows = [row("retrain", 0.9, 0), row("retrain", 0.8, 1), row("npo", 0.88, 0), row("npo", 0.765, 1)]
    rows += [row("finetune", 0.88, 0), row("finetune", 0.75, 1), row("original", 0.1, 0)]
    assert [line.method for line in summarise(rows) if line.fails] == ["finetune"]  # .035 against .03; npo lost less
    assert "! fails" in text_table(rows)
    classes = [{**r, "task": "node_classification", "test_acc": r.pop("retain_auc")} for r in map(dict, rows)]
    assert [line.method for line in summarise(classes) if line.fails] == ["finetune"]


def test_absent_figures_and_errors_in_the_table():
    rows = [made("npo", None), {**made("npo", None, 1), "error": "Expected finite losses (got NaN)"}]
    line, note = text_table(rows).splitlines()[2:]
    assert "1 of 2" in line
    assert " 0" not in line
    assert note == "npo (default) failed: Expected finite losses (got NaN)"


def test_two_data_sets_are_told_apart(rows, tmp_path):
    both = [*rows, *({**row, "dataset": "other", "curve": [], "hist_forget": None} for row in rows)]
    assert text_table(both).splitlines()[0].startswith("data set")
    assert "data set" not in text_table(rows)
    assert grid_report(both, tmp_path / "r.html").read_text().count("<h2>other</h2>") == 1


def test_evaluation_report(tmp_path):
    result, references = problem("link_prediction")
    evaluation = gu.evaluate(result, references=references)
    html = evaluation_report(evaluation, tmp_path / "r.html").read_text()
    for name in ("original", "retrain", "finetune"):
        assert f"<td>{name}" in html
    assert len(images(html)) == 3  # no course: nothing recorded it
    assert [line.split()[0] for line in str(evaluation).splitlines()[2:4]] == ["finetune", "retrain"]
    assert "hist_forget" not in evaluation.rows[0]
    evaluation_report(gu.evaluate(result), tmp_path / "alone.html")


def test_listings_come_from_the_classes():
    table = methods_table().splitlines()
    for name, cls in METHODS.items():
        (line,) = [line for line in table if line.startswith(f"| `{name}` |")]
        assert cls.summary in line
        assert {need.strip() for need in cls.needs.split(",") if need} <= set(NEEDS), name
        assert f"| {'can be' if cls.certified else 'no'} |" in line
        address = f"](https://arxiv.org/abs/{cls.paper.removeprefix('arXiv ')})"
        assert address in line if cls.paper.startswith("arXiv ") else cls.paper in line
    for names, listed in ((METHODS, methods_table), (LOSSES, losses_table), (ESTIMATORS, estimators_table)):
        assert re.findall(r"^\| `(\w+)` \|", listed(), re.M) == list(names)
    assert all(f"| `{name}` | {cls.__name__} |" in losses_table() for name, cls in LOSSES.items())
