"""Tables and the HTML report of a study of influence estimators."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table as RichTable

from gunlearn.attribution import ESTIMATORS
from gunlearn.attribution.study.study import Study
from gunlearn.report.html import described, write_page
from gunlearn.report.influence_plots import draw_study
from gunlearn.report.plots import data_uri
from gunlearn.report.table import ABSENT, Table
from gunlearn.training.result import versions

HEADINGS = (
    "estimator", "question", "Spearman", "95 % interval", "Kendall", "Pearson", "top 1 %", "seconds", "peak MiB",
)  # fmt: skip
MARKS = {
    "truth": ("=", "is the truth itself: its row says what the truth costs."),
    "behind": ("*", "no better than chance (the interval reaches 0 or below) or than the degree of the nodes."),
    "other": ("†", "answers the other question than the truth does: shown for comparison, not a fair test."),
}
QUESTIONS = {
    "removal": "the model stays as it is and the graph changes: what happens to what it says?",
    "training": "what would the model say, had it been trained without the item?",
}
TARGETS = {
    "probabilities": "the sum over nodes of the L1 change of the softmaxed outputs",
    "embeddings": "the sum over nodes of the L2 change of the outputs",
    "loss": "the change of the mean loss of the validation items (above 0: the loss rises without the item)",
}


def influence_report(study: Study, path: str | Path) -> Path:
    """Write the report of a study: the table, scatter plots, recovery curves, cost against quality."""
    settings = study.settings
    return write_page(
        path,
        "influence.html.j2",
        title=f"Influence of {settings['of']}" + (f": {settings['dataset']}" if settings.get("dataset") else ""),
        study=settings,
        question=QUESTIONS[settings["truth_question"]],
        what=TARGETS.get(settings["target"], "the change of a number computed from the outputs"),
        table=_table(study.rows),
        plots=[(name, words, data_uri(figure)) for name, words, figure in draw_study(study)],
        settings=_settings(settings),
        estimators=[
            described(
                row["estimator"], ESTIMATORS.get(row["estimator"].partition(" (")[0]), row["options"], row["notes"]
            )
            for row in study.rows
        ],
        versions=versions(),
    )


def study_cells(row: dict[str, Any]) -> list[str]:
    """Return the cells of one row, in the order of `HEADINGS`."""
    marks = "".join(f" {MARKS[name][0]}" for name in _marks(row))
    interval = row.get("spearman_ci")
    return [
        row["estimator"] + marks,
        row["question"],
        _number(row["spearman"], ".3f"),
        ABSENT if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}",
        _number(row["kendall"], ".3f"),
        _number(row["pearson"], ".3f"),
        _number(row["precision_at_1pct"], ".0%"),
        _seconds(row["seconds"]),
        _number(row["peak_memory_mb"], ".0f"),
    ]


def study_footnotes(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the notes below a table: meanings of the marks, and failures."""
    used = {name for row in rows for name in _marks(row)}
    notes = [f"{mark} {words}" for name, (mark, words) in MARKS.items() if name in used]
    return notes + [f"{row['estimator']} failed: {row['error']}" for row in rows if row["error"]]


def influence_rich_table(rows: Sequence[dict[str, Any]], title: str | None = None) -> RichTable:
    """Return the table for the terminal."""
    return _table(rows).terminal(title)


def influence_markdown_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table in markdown."""
    return _table(rows).markdown()


def study_title(study: Study) -> str:
    """Return data set, model, items, target and truth of a study in one line."""
    s = study.settings
    name = f"{s['dataset']}, " if s.get("dataset") else ""
    count = f"{s['num_items']} {'groups of ' if s['grouped'] else ''}{s['of']}"
    return f"{name}{s['model']}: {count}, target {s['target']}, truth {s['truth']}"


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    return Table(HEADINGS, [study_cells(row) for row in rows], 2, study_footnotes(rows))


def _marks(row: dict[str, Any]) -> list[str]:
    other = row["question"] != row["truth_question"] and row["estimator"] not in ("random", "degree")
    held = {"truth": row["is_truth"], "behind": bool(row["behind"]), "other": other}
    return [name for name in MARKS if held[name]]


def _number(value: float | None, spec: str) -> str:
    return ABSENT if value is None else format(value, spec)


def _seconds(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def _settings(settings: dict[str, Any]) -> dict[str, str]:
    names = {
        "dataset": "data set", "num_nodes": "nodes", "num_edges": "columns of edge_index", "model": "model",
        "task": "task", "of": "items", "num_items": "compared", "num_scored": "scored by estimators",
        "target": "target", "truth_summary": "truth", "num_resamples": "bootstrap resamples", "seed": "seed",
    }  # fmt: skip
    out = {words: str(settings[name]) for name, words in names.items() if settings.get(name) is not None}
    out["cost of the truth"] = f"{_seconds(settings['truth_seconds'])} s"
    for name, words in (("recipe", "recipe"), ("truth_notes", "notes of the truth")):
        if settings.get(name):
            out[words] = ", ".join(f"{key} {value}" for key, value in settings[name].items())
    return out
