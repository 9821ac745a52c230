"""Listings of methods, figures, estimators, losses (from class attributes) and data sets."""

import re
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

from gunlearn.attribution import ESTIMATORS
from gunlearn.core.registry import Registry
from gunlearn.datasets.catalogue import DATASETS, available
from gunlearn.datasets.images import IMAGE_SETS
from gunlearn.losses import LOSSES
from gunlearn.methods import METHODS
from gunlearn.metrics import FIGURES
from gunlearn.report.table import Table

ARXIV = "https://arxiv.org/abs/"
_BETTER = {"retrained": "as the retrained model's"}
_CLASSES: dict[str, Mapping] = {"method": METHODS, "figure": FIGURES, "estimator": ESTIMATORS, "loss": LOSSES}
#: Columns after the name, by kind: heading and text of a class.
_COLUMNS: dict[str, dict[str, Callable[[Any], str]]] = {
    "method": {
        "what it does": lambda cls: cls.summary,
        "forgets": lambda cls: ", ".join(cls.requests) or "anything",
        "tasks": lambda cls: ", ".join(cls.tasks) or "any",
        "needs": lambda cls: cls.needs or "nothing more",
        "certified": lambda cls: "can be" if cls.certified else "no",
        "cost": lambda cls: cls.cost,
        "variants": lambda cls: ", ".join(cls.variants),
        "paper mode": lambda cls: _paper_mode(cls),
        "paper": lambda cls: cls.paper or "baseline",
    },
    "figure": {
        "column": lambda cls: (cls.heading or "-") + (" (on demand)" if cls.optional else ""),
        "what it is": lambda cls: cls.legend,
        "tasks": lambda cls: ", ".join(cls.tasks) or "any but texts",
        "better": lambda cls: _BETTER.get(cls.better, cls.better),
    },
    "estimator": {
        "question": lambda cls: cls.question,
        "what it does": lambda cls: cls.summary,
        "of": lambda cls: ", ".join(cls.of),
        "targets": lambda cls: ", ".join(cls.targets),
        "cost": lambda cls: cls.cost or "-",
        "paper": lambda cls: cls.paper or "-",
    },
    "loss": {
        "class": lambda cls: cls.__name__,
        "what it does": lambda cls: cls.summary,
        "needs reference": lambda cls: "yes" if cls.needs_reference else "no",
        "bounded below": lambda cls: "yes" if cls.bounded_below else "no",
        "reads": lambda cls: ", ".join(cls.level),
        "paper": lambda cls: "; ".join(filter(None, [cls.paper, cls.arxiv and f"arXiv {cls.arxiv}"])) or "-",
    },
}


def listing(kind: str) -> tuple[list[str], list[list[str]]]:
    """Return headings, and a row per class of a kind; where its extra is missing, the row says what to install.

    Names of other packages' classes come with the package: `theirs (toy 0.1)`.
    """
    classes, columns, body = _CLASSES[kind], _COLUMNS[kind], []
    for name, cls in (classes.importable() if isinstance(classes, Registry) else classes).items():
        missing = isinstance(cls, ImportError)
        shown = [str(cls), *["-"] * (len(columns) - 1)] if missing else [read(cls) for read in columns.values()]
        package = classes.origin(name) if isinstance(classes, Registry) and not missing else ""
        body.append([f"{name} ({package})" if package else name, *shown])
    return [kind, *columns], body


def datasets_listing(root: str | PathLike[str] | None = None) -> tuple[list[str], list[list[str]]]:
    """Return headings, and a row per named data set that says whether its files are at hand."""
    head = ["data set", "nodes or images", "directed edges", "source", "at hand"]
    rows = []
    for row in available():
        at_hand = "embedded" if row.embedded else "yes" if row.offline(root) else "no: ROOT/" + "/".join(row.folder)
        rows.append([row.name, str(row.nodes), "-" if row.edges is None else str(row.edges), row.source, at_hand])
    for images in (one for one in IMAGE_SETS.values() if one.name not in DATASETS):
        at_hand = "yes" if images.offline(root) else f"no: ROOT/{images.name}/raw"
        rows.append([images.name, str(images.images), "-", images.source, at_hand])
    return head, rows


def listing_markdown(head: list[str], body: list[list[str]]) -> str:
    """Return a listing in markdown, with links to arXiv."""
    return Table(head, [[f"`{row[0]}`", *map(_linked, row[1:])] for row in body], len(head)).markdown()


def methods_table() -> str:
    """Return the markdown table of all methods."""
    return listing_markdown(*listing("method"))


def figures_table() -> str:
    """Return the markdown table of all figures."""
    return listing_markdown(*listing("figure"))


def estimators_table() -> str:
    """Return the markdown table of all estimators of influence."""
    return listing_markdown(*listing("estimator"))


def losses_table() -> str:
    """Return the markdown table of all losses."""
    return listing_markdown(*listing("loss"))


def _paper_mode(cls: Any) -> str:
    """Return what a method's paper mode was held against; "-" for a method without one."""
    if not any(label.partition("_")[0] == "paper" for label in cls.variants):
        return "-"
    return f"authors' code ({cls.compared})" if cls.compared else "never held against the authors' code"


def _linked(text: str) -> str:
    return re.sub(r"arXiv (\d{4}\.\d{4,5})", rf"[arXiv \1]({ARXIV}\1)", text)
