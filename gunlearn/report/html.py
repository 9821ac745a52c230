"""Self-contained HTML reports, without scripts or external files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader

from gunlearn.bench.store import atomic_write
from gunlearn.core.printable import printable
from gunlearn.methods import METHODS
from gunlearn.metrics.base import Figure
from gunlearn.report.comparison_plots import draw_comparison
from gunlearn.report.distance_and_price import NEAR_FLOORS
from gunlearn.report.listing import ARXIV
from gunlearn.report.plots import data_uri
from gunlearn.report.price_plot import price_words
from gunlearn.report.protocol import forgotten_items, in_words_of, problem_title, protocol
from gunlearn.report.summary import ENDS, Line, Row, problems, summarise
from gunlearn.report.table import ONE_RUN, columns, comparison, legend
from gunlearn.report.verdict import verdict

if TYPE_CHECKING:
    from gunlearn.report.evaluation_of_result import Evaluation


def grid_report(rows: Sequence[Row], path: str | Path, figures: Sequence[Figure] = (), command: str = "") -> Path:
    """Write the report of a grid's rows, one section per problem.

    Args:
        rows: what `run_grid` returned.
        path: the file.
        figures: columns for unregistered figures.
        command: the command that the rows came from.
    """
    names = sorted({str(row["dataset"]) for row in rows if row.get("dataset")})
    title = problem_title(rows[0]) if names and len(problems(rows)) == 1 else ", ".join(names)
    return _write(path, f"Unlearning: {title}" if title else "Unlearning", rows, figures, command)


def evaluation_report(evaluation: Evaluation, path: str | Path) -> Path:
    """Write the report of one result, its references and the model before unlearning."""
    title = f"Unlearning by {evaluation.rows[0]['method']}"
    return _write(path, title, evaluation.drawn, list(evaluation.figures.values()), "gunlearn.evaluate, from Python")


def write_page(path: str | Path, template: str, **values: Any) -> Path:
    """Fill a template of this package and write the page."""
    environment = Environment(loader=PackageLoader("gunlearn.report", "templates"), autoescape=True, trim_blocks=True)
    return atomic_write(path, environment.get_template(template).render(**values))


def described(label: str, cls: Any, options: Mapping[str, Any], notes: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the texts of a method or estimator for a page; `cls` is `None` for one that is not registered."""
    paper = "" if cls is None else cls.paper
    return {
        "label": label,
        "summary": "" if cls is None else cls.summary,
        "paper": paper,
        "address": f"{ARXIV}{paper.removeprefix('arXiv ')}" if paper.startswith("arXiv ") else None,
        "options": ", ".join(f"{name} {_told(value)}" for name, value in options.items() if value is not None),
        "notes": ", ".join(f"{name}: {value}" for name, value in notes.items()),
    }


def _write(path: str | Path, title: str, rows: Sequence[Row], figures: Sequence[Figure], command: str) -> Path:
    versions = [row["versions"] for row in rows if row.get("versions")]
    dates = sorted({row["date"] for row in rows if row.get("date")})
    return write_page(
        path,
        "report.html.j2",
        title=title,
        near=NEAR_FLOORS,
        sections=[_section(group, figures) for group in problems(rows)],
        date=" to ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else "",
        command=printable(command),
        versions={name: ", ".join(sorted({v[name] for v in versions if name in v})) for v in versions for name in v},
    )


def _section(rows: Sequence[Row], figures: Sequence[Figure]) -> dict[str, Any]:
    lines, first = summarise(rows), rows[0]
    plots = {name: (words, data_uri(figure)) for name, words, figure in draw_comparison(lines)}
    table = comparison(lines, figures, floor_on="\n")
    return {
        "name": problem_title(first) if first.get("dataset") else "",
        "verdict": verdict(lines),
        "table": replace(table, notes=[note for note in table.notes if note != ONE_RUN]),  # the verdict has said so
        "legend": in_words_of(legend(columns(lines, figures)), forgotten_items(first)),
        "several": any(len(line.rows) > 1 for line in lines),
        "bars": any(len(line.rows) > 1 for line in lines if line.method not in ENDS),
        "subject": forgotten_items(first),
        "hollow": any(line.fails for line in lines),
        "picture": plots.pop("price", None),
        "alt": price_words(lines),
        "plots": [(name, words, image) for name, (words, image) in plots.items()],
        "protocol": protocol(rows),
        "settings": _settings(rows),
        "methods": [
            described(line.label, METHODS[line.method], _options(line), {}) for line in lines if line.method in METHODS
        ],
    }


def _settings(rows: Sequence[Row]) -> dict[str, str]:
    """Return what the protocol does not say in words."""
    found = {
        "digest of the request": ", ".join(dict.fromkeys(r["request_hash"] for r in rows if r.get("request_hash")))
    }
    found["base model"] = ", ".join(f"{key} {value}" for key, value in (rows[0].get("recipe") or {}).items())
    found["device"] = rows[0].get("device") or ""
    return {name: value for name, value in found.items() if value}


def _told(value: Any) -> str:
    """Return an option's value as a text; of one that has slashes `PATH`, since reports are shared."""
    return "PATH" if re.search(r"[/\\]", str(value)) else str(value)


def _options(line: Line) -> dict[str, Any]:
    return next((row["options"] for row in line.rows if row.get("options")), {})
