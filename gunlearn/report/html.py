"""Self-contained HTML reports: no script, no address but a paper's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader

from gunlearn.bench.course import histogram
from gunlearn.bench.store import atomic_write
from gunlearn.methods import METHODS
from gunlearn.report.listing import ARXIV
from gunlearn.report.plots import data_uri, draw
from gunlearn.report.summary import Line, Row, problems, summarise
from gunlearn.report.table import LEGEND, cells, footnotes, headings

if TYPE_CHECKING:
    from gunlearn.api import Evaluation

_SETTINGS = (
    "dataset",
    "num_nodes",
    "task",
    "backbone",
    "forget",
    "protocol",
    "ratio",
    "count",
    "region",
    "by",
    "device",
)


def grid_report(rows: Sequence[Row], path: str | Path) -> Path:
    """Write the report of a grid, one section per data set and way to draw what is forgotten."""
    names = sorted({str(row["dataset"]) for row in rows if row.get("dataset")})
    return _write(path, "Unlearning compared" + (f": {', '.join(names)}" if names else ""), rows)


def evaluation_report(evaluation: Evaluation, path: str | Path) -> Path:
    """Write the report of one result beside its references."""
    evaluator, result = evaluation.evaluator, evaluation.result
    models = [result.model, *(model for model, _ in evaluator.references)]
    probabilities = [evaluator.probabilities(models[0]), *(p for _, p in evaluator.references)]
    if len(evaluation.rows) > len(probabilities):  # utu's row
        probabilities.append(evaluator.probabilities(result.original))
    rows = [
        {**row, "hist_forget": histogram(evaluator.forget_probability(p))}
        for row, p in zip(evaluation.rows, probabilities, strict=True)
    ]
    rows[0]["options"] = result.config
    if result.original is not None:
        p = evaluator.probabilities(result.original, full_graph=True)
        figures = {**evaluator.utility(p), **evaluator.forgetting(p), **evaluator.distance(result.original, p)}
        rows.insert(
            0,
            {
                "method": "original",
                "mode": "full graph",
                **figures,
                "hist_forget": histogram(evaluator.forget_probability(p)),
            },
        )
    return _write(path, f"Unlearning by {result.method}", rows)


def _write(path: str | Path, title: str, rows: Sequence[Row]) -> Path:
    environment = Environment(loader=PackageLoader("gunlearn.report", "templates"), autoescape=True)
    sections = [_section(group) for group in problems(rows)]
    versions = [row["versions"] for row in rows if row.get("versions")]
    text = environment.get_template("report.html.j2").render(
        title=title,
        sections=sections,
        legend=LEGEND,
        versions={name: ", ".join(sorted({v[name] for v in versions if name in v})) for v in versions for name in v},
    )
    return atomic_write(path, text)


def _section(rows: Sequence[Row]) -> dict[str, Any]:
    lines = summarise(rows)
    first = rows[0]
    settings = {name.replace("_", " "): first[name] for name in _SETTINGS if first.get(name) is not None}
    settings["seeds"] = ", ".join(map(str, dict.fromkeys(row["seed"] for row in rows if row.get("seed") is not None)))
    for name in ("num_forget", "request_hash"):
        values = dict.fromkeys(row[name] for row in rows if row.get(name) is not None)
        settings[name.replace("_", " ")] = ", ".join(map(str, values))
    if first.get("recipe"):
        settings["base model"] = ", ".join(f"{key} {value}" for key, value in first["recipe"].items())
    return {
        "name": first.get("dataset"),
        "headings": headings(lines),
        "rows": [{"cells": cells(line, False, among=lines), "behind": line.behind_utu} for line in lines],
        "footnotes": footnotes(lines),
        "plots": [{"name": name, "words": words, "image": data_uri(figure)} for name, words, figure in draw(lines)],
        "settings": {name: value for name, value in settings.items() if value != ""},
        "methods": [_described(line) for line in lines if line.method in METHODS],
    }


def _described(line: Line) -> dict[str, Any]:
    cls = METHODS[line.method]
    options = next((row["options"] for row in line.rows if row.get("options")), {})
    number = cls.paper.removeprefix("arXiv ") if cls.paper.startswith("arXiv ") else None
    return {
        "label": line.label,
        "summary": cls.summary,
        "paper": cls.paper,
        "address": f"{ARXIV}{number}" if number else None,
        "options": ", ".join(f"{name} {value}" for name, value in options.items() if value is not None),
    }
