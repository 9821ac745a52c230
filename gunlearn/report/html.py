"""Self-contained HTML reports, without scripts or external files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader

from gunlearn.bench.store import atomic_write
from gunlearn.methods import METHODS
from gunlearn.metrics.base import Figure
from gunlearn.report.listing import ARXIV
from gunlearn.report.plots import data_uri, draw_comparison
from gunlearn.report.summary import Line, Row, problems, summarise
from gunlearn.report.table import columns, comparison, legend

if TYPE_CHECKING:
    from gunlearn.report.result_evaluation import Evaluation

_SETTINGS = (
    "dataset", "num_nodes", "task", "backbone", "forget", "protocol", "ratio", "count", "region", "by", "device",
)  # fmt: skip


def grid_report(rows: Sequence[Row], path: str | Path, figures: Sequence[Figure] = ()) -> Path:
    """Write the report of a grid's rows, one section per problem; `figures` are columns for unregistered figures."""
    names = sorted({str(row["dataset"]) for row in rows if row.get("dataset")})
    return _write(path, "Unlearning compared" + (f": {', '.join(names)}" if names else ""), rows, figures)


def evaluation_report(evaluation: Evaluation, path: str | Path) -> Path:
    """Write the report of one result, its references and the model before unlearning."""
    title = f"Unlearning by {evaluation.rows[0]['method']}"
    return _write(path, title, evaluation.drawn, list(evaluation.figures.values()))


def write_page(path: str | Path, template: str, **values: Any) -> Path:
    """Fill a template of this package and write the page."""
    environment = Environment(loader=PackageLoader("gunlearn.report", "templates"), autoescape=True)
    return atomic_write(path, environment.get_template(template).render(**values))


def described(label: str, cls: Any, options: Mapping[str, Any], notes: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the texts of a method or estimator for a page; `cls` is `None` for one that is not registered."""
    paper = "" if cls is None else cls.paper
    return {
        "label": label,
        "summary": "" if cls is None else cls.summary,
        "paper": paper,
        "address": f"{ARXIV}{paper.removeprefix('arXiv ')}" if paper.startswith("arXiv ") else None,
        "options": ", ".join(f"{name} {value}" for name, value in options.items() if value is not None),
        "notes": ", ".join(f"{name}: {value}" for name, value in notes.items()),
    }


def _write(path: str | Path, title: str, rows: Sequence[Row], figures: Sequence[Figure]) -> Path:
    versions = [row["versions"] for row in rows if row.get("versions")]
    return write_page(
        path,
        "report.html.j2",
        title=title,
        sections=[_section(group, figures) for group in problems(rows)],
        versions={name: ", ".join(sorted({v[name] for v in versions if name in v})) for v in versions for name in v},
    )


def _section(rows: Sequence[Row], figures: Sequence[Figure]) -> dict[str, Any]:
    lines, first = summarise(rows), rows[0]
    settings = {name.replace("_", " "): first[name] for name in _SETTINGS if first.get(name) is not None}
    for name, words in (("seed", "seeds"), ("num_forget", "num forget"), ("request_hash", "request hash")):
        settings[words] = ", ".join(dict.fromkeys(str(row[name]) for row in rows if row.get(name) is not None))
    if first.get("recipe"):
        settings["base model"] = ", ".join(f"{key} {value}" for key, value in first["recipe"].items())
    return {
        "name": first.get("dataset"),
        "table": comparison(lines, figures),
        "legend": legend(columns(lines, figures)),
        "plots": [(name, words, data_uri(figure)) for name, words, figure in draw_comparison(lines)],
        "settings": {name: value for name, value in settings.items() if value != ""},
        "methods": [
            described(line.label, METHODS[line.method], _options(line), {}) for line in lines if line.method in METHODS
        ],
    }


def _options(line: Line) -> dict[str, Any]:
    return next((row["options"] for row in line.rows if row.get("options")), {})
