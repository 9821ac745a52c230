import base64
import re
import statistics
import xml.etree.ElementTree as ET

import matplotlib
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

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
from gunlearn.report.comparison_plots import PLOTS, draw_comparison
from gunlearn.report.price_plot import cheap_below, placed, price_plot
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
    first, *others = drawn  # the text of the first picture says where each method stands
    assert re.search(r"in noise floors .*: retrain 1 at 1 times; utu [\d.]+ at", first)
    assert others == [words for _, words, _ in PLOTS[1:]]
    for svg in drawn.values():
        assert ET.fromstring(svg).tag.endswith("svg")
    for method in {row["method"] for row in rows}:
        assert re.search(rf'<th scope="row">{method}( [*~!]+)?</th>', html)
    assert rows[0]["request_hash"] in html
    assert rows[0]["versions"]["torch"] in html
    assert "certificate" in html
    assert rows[0]["date"] in html


def test_report_escapes(rows, tmp_path):
    evil = [{**row, "dataset": "<script>alert(1)</script>$x_$", "mode": "a$b<c"} for row in rows]
    html = grid_report(evil, tmp_path / "r.html").read_text()
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_report_tells_no_path_in_an_option(rows, tmp_path):
    options = {"training": "/home/secret/a.pt", "other": ["C:\\secret"], "lr": 0.125}
    html = grid_report([{**row, "options": options} for row in rows], tmp_path / "r.html").read_text()
    assert "training PATH, other PATH, lr 0.125" in html
    assert "secret" not in html


def test_report_is_the_same_twice_and_leaves_matplotlib_alone(rows, html, tmp_path):
    before = dict(matplotlib.rcParams)
    assert grid_report(rows, tmp_path / "r.html").read_text() == html
    assert dict(matplotlib.rcParams) == before


def boxes(figure):
    """Where the legend and every title and axis of a drawn figure lie, in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    shown = [axes for axes in figure.axes if axes.get_visible()]
    return figure.bbox, figure.legends[0].get_window_extent(renderer), [a.get_tightbbox(renderer) for a in shown]


@pytest.mark.parametrize("methods", [("utu",), ("utu", "npo", "finetune")])
def test_no_legend_lies_over_a_title_and_nothing_is_cut_off(rows, methods):
    lines = summarise([row for row in rows if row["method"] in ("original", "retrain", *methods)])
    lines[-1].mode = "default until unseen, and a long name"
    drawn = draw_comparison(lines)
    assert drawn[0][0] == "price"
    for name, _, figure in drawn:
        paper, legend, panels = boxes(figure)
        for box in (legend, *panels):
            assert paper.x0 <= box.x0, name
            assert box.x1 <= paper.x1, name
            assert paper.y0 - 1 <= box.y0, name
            assert box.y1 <= paper.y1 + 1, name
        assert not any(legend.overlaps(box) for box in panels), name


def test_places_in_the_first_picture():
    """Prices of 4 and 2 seconds of 10, and what costs next to nothing; distances of 4, 2 and 3 floors."""
    rows = [made("retrain", 0.1, seconds=10.0), made("utu", 0.4, seconds=0.001), made("original", 0.4)]
    rows += [made("npo", 0.2, seconds=4.0), made("gif", 0.3, seconds=2.0), made("etr", None, seconds=1.0)]
    lines = summarise(rows)
    found = {spot.line.method: (spot.price, spot.distance) for spot in placed(lines)}
    assert found == {
        name: pytest.approx(spot)
        for name, spot in {"retrain": (1, 1), "utu": (1e-4, 4), "npo": (0.4, 2), "gif": (0.2, 3)}.items()
    }
    assert cheap_below(placed(lines)) == 0.1  # .2 / 1.3, rounded down to 1, 2 or 5
    axes = price_plot(lines).axes[0]
    assert "floor: several retrainings" in {line.get_label() for line in axes.get_lines()}  # rows do not say how many
    for number in (2, 3):
        told = price_plot(summarise([{**row, "references": number} for row in rows if row["method"] != "etr"])).axes[0]
        assert f"floor: {number} retrainings" in {line.get_label() for line in told.get_lines()}
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    at = {line.get_label(): line.get_xdata()[0] for line in axes.get_lines()}
    assert axes.get_xlim()[0] < at["utu"] < 0.1 < at["gif"]
    assert next(label.get_text() for label in axes.get_xticklabels()) == "under\n10 %"


def test_the_first_picture_without_times_of_retraining_or_a_floor():
    """Models retrained elsewhere have no time; one of them gives no floor."""
    rows = [made("utu", 0.4, floor=None), made("npo", 0.2, floor=None, seconds=3.0)]
    found = {spot.line.method: (spot.price, spot.distance) for spot in placed(summarise(rows))}
    assert found == {"utu": (0, 0.4), "npo": (3.0, 0.2)}
    axes = price_plot(summarise(rows)).axes[0]
    assert "seconds" in axes.get_xlabel()
    assert "nats" in axes.get_ylabel()
    assert price_plot(summarise([made("npo", None, seconds=3.0)])) is None


def words(path):
    """What a reader sees of a page."""
    return " ".join(re.sub(r"<[^>]*>", " ", re.sub(r"<style>.*?</style>", "", path.read_text(), flags=re.S)).split())


@pytest.mark.parametrize("task", ["node_classification", "link_prediction"])
def test_reports_of_nodes_speak_of_nodes(tmp_path, task):
    """Under link prediction the figures are measured on edges of the nodes, and the page says that."""
    shared = {"dataset": "karate", "task": task, "forget": "nodes", "ratio": 0.1, "num_forget": 3, "region": "any"}
    rows = [{**made(m, js), **shared} for m, js in (("retrain", 0.1), ("utu", 0.3), ("npo", 0.2))]
    said = words(grid_report(rows, tmp_path / "r.html"))
    assert "3 nodes forgotten, 10 % of those that were trained on" in said
    assert "forgotten edges" not in said
    assert "region" not in said
    assert ("edges of the forgotten nodes" in said) == (task == "link_prediction")
    assert ("edge" in said) == (task == "link_prediction")


def test_one_run_is_called_one_run(rows, tmp_path):
    one = words(grid_report([row for row in rows if row["seed"] == 0], tmp_path / "one.html"))
    assert "One run, under seed 0." in one
    assert "One run of each method: under another seed" in one
    assert not re.search(r"standard deviation|mean over runs|Bars", one)
    assert "Mean ± standard deviation over runs" in words(grid_report(rows, tmp_path / "two.html"))


def test_the_verdict_comes_first(rows, tmp_path):
    said = words(grid_report(rows, tmp_path / "r.html", command="gunlearn run --forget-file FILE"))
    assert said.index("ended") < said.index("All figures") < said.index("certificate")
    assert "gunlearn run --forget-file FILE" in said


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
    html = grid_report(both, tmp_path / "r.html").read_text()
    assert html.count("<h2>other, link prediction, 6 edges forgotten, region any</h2>") == 1
    assert html.count('<a href="#problem-2">other, link') == 1


def test_evaluation_report(tmp_path):
    result, references = problem("link_prediction")
    evaluation = gu.evaluate(result, references=references)
    html = evaluation_report(evaluation, tmp_path / "r.html").read_text()
    for name in ("original", "retrain", "finetune"):
        assert f'<th scope="row">{name}' in html
    assert len(images(html)) == 2  # no course: nothing recorded it
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
