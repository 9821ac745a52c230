"""What every registered figure keeps to, and figures of one's own."""

import json
import re
from html import unescape
from typing import Any

import pytest
import torch

import gunlearn as gu
from gunlearn.errors import CheckpointError, InvalidInputError, InvalidTypeError
from gunlearn.metrics import EVALUATORS, FIGURES, Figure, figures_of
from gunlearn.metrics.base import BETTER
from gunlearn.report import figures_table, markdown_table
from gunlearn.report.protocol import forgotten_items, in_words_of
from gunlearn.tasks.named import TASKS
from tests.metrics.cases import CASES, FigureCase, problem, view_of

KNOWN = (*TASKS, "causal_lm")


def tasks_of(name: str) -> tuple[str, ...]:
    return FIGURES[name].tasks or tuple(EVALUATORS)


PAIRS = [pytest.param(case, task, id=f"{case}-{task}") for case in CASES for task in tasks_of(case.figure)]


def test_every_figure_has_a_case() -> None:
    assert [case.figure for case in CASES] == list(FIGURES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_figure_is_explained(case: FigureCase) -> None:
    figure = FIGURES[case.figure]()
    assert figure.name == case.figure
    assert len(figure.legend) > 10
    assert bool(figure.heading) == case.column
    assert figure.better in BETTER
    assert set(figure.tasks) | set(figure.hidden) <= set(KNOWN)
    assert not figure.floor or figure.floor in FIGURES
    (line,) = [line for line in figures_table().splitlines() if line.startswith(f"| `{figure.name}` |")]
    assert figure.legend.replace("<", "&lt;") in line


@pytest.mark.parametrize(("case", "task"), PAIRS)
def test_every_figure_is_computed(case: FigureCase, task: str) -> None:
    view, state = view_of(task), torch.get_rng_state()
    figure = FIGURES[case.figure]()
    value = figure.compute(view)
    if case.whole_classes or case.too_few == task:
        assert value is None
        return
    assert type(value) is (int if case.figure == "epochs" else float)
    assert case.low <= value <= case.high
    assert figure.compute(view_of(task)) == value
    assert torch.equal(torch.get_rng_state(), state)
    if case.references and task in EVALUATORS:
        few = [figure.compute(view_of(task, number)) is None for number in range(3)]
        assert few == [number < case.references for number in range(3)]


@pytest.mark.parametrize("task", EVALUATORS)
def test_every_figure_is_in_rows_tables_and_legend(task: str, tmp_path: Any) -> None:
    result, references = problem(task)
    demanded = [name for name in FIGURES if FIGURES[name].optional and task in tasks_of(name)]
    assert not set(demanded) & set(gu.evaluate(result, references=references))
    found = gu.evaluate(result, references=references, metrics=demanded)
    assert list(found) == list(figures_of(task, demanded)) == [name for name in FIGURES if task in tasks_of(name)]
    html = unescape(re.sub(r'src="[^"]*"', "", found.report(tmp_path / "r.html").read_text()))
    head = re.split("  +", str(found).splitlines()[0])
    for name in found:
        figure = FIGURES[name]()
        assert (figure.heading in head) == figure.is_column([task])
        if figure.is_column([task]):
            assert f"{figure.heading}: {in_words_of(figure.legend, forgotten_items(found.rows[0]))}" in html
            assert f'<th scope="col">{figure.heading}</th>' in html
            if found[name] is not None or not figure.optional:  # rows alone do not tell that it was asked for
                assert f"| {figure.heading} |" in markdown_table(found.rows)
    assert set(EVALUATORS[task].headline) <= set(found)
    header = found.save_csv(tmp_path / "rows.csv").read_text().splitlines()[0].split(",")
    assert set(found) <= set(header)


class Certainty(Figure):
    """Mean probability of test items' likeliest class."""

    name, heading, better, format = "certainty", "certainty", "retrained", ".4f"

    def compute(self, view: Any) -> float | None:
        probability = view.probability("test")
        return None if probability is None else float(probability.amax(-1).mean())


def test_a_figure_of_ones_own(tmp_path: Any) -> None:
    result, references = problem("node_classification")
    found = gu.evaluate(result, references=references, metrics=[Certainty(), "test_acc"])
    data = result.data
    with torch.no_grad():
        prob = result.model(data.x, data.edge_index).softmax(-1)[data.test_mask].amax(-1).mean()
    assert found["certainty"] == pytest.approx(float(prob), rel=1e-5)
    assert all(0 < row["certainty"] < 1 for row in found.rows)
    assert "certainty" in dict(found)
    assert f"{found['certainty']:.4f}" in str(found)
    html = found.report(tmp_path / "r.html").read_text()
    assert '<th scope="col">certainty</th>' in html
    assert "certainty: Mean probability of test items' likeliest class. " in unescape(html)
    assert "certainty" in found.save_csv(tmp_path / "rows.csv").read_text().splitlines()[0].split(",")
    again = type(found).load(found.save(tmp_path / "evaluation.json"))
    assert dict(again) == dict(found)
    assert again.rows == found.rows
    assert str(again) == str(found)
    assert again.report(tmp_path / "again.html").read_text() == html


@pytest.mark.parametrize(
    ("metrics", "error", "words"),
    [
        ([Certainty], InvalidTypeError, "got the class Certainty"),
        ([3], InvalidTypeError, "got int"),
        (["test_ac"], InvalidInputError, "did you mean 'test_acc'"),
        (["retain_auc"], InvalidInputError, "of link_prediction"),
        ([type("A", (Certainty,), {"name": "js_test"})()], InvalidInputError, "nothing else"),
        ([type("A", (Certainty,), {"name": "method"})()], InvalidInputError, "nothing else"),
        ([type("A", (Certainty,), {"legend": ""})()], InvalidInputError, "'legend'"),
        ([type("A", (Certainty,), {"better": "big"})()], InvalidInputError, "'better'"),
        ([type("A", (Certainty,), {"tasks": ("causal_lm",)})()], InvalidInputError, "of causal_lm"),
        ([type("A", (Certainty,), {"compute": lambda self, view: torch.ones(())})()], InvalidTypeError, "got Tensor"),
        ([type("A", (Certainty,), {"compute": lambda self, view: float("nan")})()], InvalidInputError, "NaN"),
    ],
)
def test_bad_figures(metrics: Any, error: type[Exception], words: str) -> None:
    result, _ = problem("node_classification")
    with pytest.raises(error, match=words):
        gu.evaluate(result, train=None, metrics=metrics)


def test_a_saved_evaluation_holds_no_names_of_what_was_forgotten(tmp_path: Any) -> None:
    result, references = problem("link_prediction")
    found = gu.evaluate(result, references=references)
    path = found.save(tmp_path / "evaluation.json")
    saved = json.loads(path.read_text())
    assert [row["method"] for row in saved["rows"]] == ["original", "finetune", "retrain", "retrain", "utu"]
    assert saved["figures"] == []

    def leaves(value: Any) -> list[Any]:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return [value] if inner is None else [leaf for entry in inner for leaf in leaves(entry)]

    lists = [value for row in saved["rows"] for value in row.values() if isinstance(value, list)]
    assert all(sum(counts) == 5 for counts in lists)  # histograms alone
    assert all(isinstance(leaf, str | int | float | bool | None) for leaf in leaves(saved))
    path.write_text(path.read_text()[:100])
    for bad in (path, tmp_path / "nowhere.json"):
        with pytest.raises(CheckpointError, match="saved evaluation"):
            type(found).load(bad)
