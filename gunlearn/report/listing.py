"""What there is, from the classes themselves: methods, figures, estimators, losses, data sets."""

from __future__ import annotations

import re
from os import PathLike

from gunlearn.attribution import ESTIMATORS
from gunlearn.datasets.catalogue import available
from gunlearn.errors import MissingExtraError
from gunlearn.losses import LOSSES
from gunlearn.methods import METHODS
from gunlearn.metrics import FIGURES
from gunlearn.report.table import markdown_of

ARXIV = "https://arxiv.org/abs/"
_Listing = tuple[list[str], list[list[str]]]


def methods_listing() -> _Listing:
    """Return heading and rows of all methods."""
    head = ["method", "what it does", "forgets", "tasks", "needs", "certified", "cost", "variants", "paper"]
    return head, [
        [name, str(cls), *["-"] * (len(head) - 2)]
        if isinstance(cls, MissingExtraError)
        else [
            name,
            cls.summary,
            ", ".join(cls.requests) or "anything",
            ", ".join(cls.tasks) or "any",
            cls.needs or "nothing more",
            "can be" if cls.certified else "no",
            cls.cost,
            ", ".join(cls.variants),
            cls.paper or "baseline",
        ]
        for name, cls in METHODS.importable().items()
    ]


def figures_listing() -> _Listing:
    """Return heading and rows of all figures."""
    head = ["figure", "column", "what it is", "tasks", "better"]
    better = {"retrained": "as the retrained model's"}
    return head, [
        [
            name,
            cls.heading or "-",
            cls.legend,
            ", ".join(cls.tasks) or "any but texts",
            better.get(cls.better, cls.better),
        ]
        for name, cls in FIGURES.items()
    ]


def estimators_listing() -> _Listing:
    """Return heading and rows of all estimators of influence."""
    head = ["estimator", "question", "what it does", "of", "targets", "cost", "paper"]
    return head, [
        [
            name,
            cls.question,
            cls.summary,
            ", ".join(cls.of),
            ", ".join(cls.targets),
            cls.cost or "-",
            cls.paper or "-",
        ]
        for name, cls in ESTIMATORS.items()
    ]


def losses_listing() -> _Listing:
    """Return heading and rows of all losses."""
    head = ["loss", "class", "what it does", "needs reference", "bounded below", "reads", "paper"]
    return head, [
        [
            name,
            cls.__name__,
            cls.summary,
            "yes" if cls.needs_reference else "no",
            "yes" if cls.bounded_below else "no",
            ", ".join(cls.level),
            "; ".join(filter(None, [cls.paper, cls.arxiv and f"arXiv {cls.arxiv}"])) or "-",
        ]
        for name, cls in LOSSES.items()
    ]


def datasets_listing(root: str | PathLike[str] | None = None) -> _Listing:
    """Return heading and rows of all named data sets, and whether their files are there."""
    head = ["data set", "nodes", "directed edges", "source", "at hand"]
    rows = []
    for row in available():
        at_hand = "embedded" if row.embedded else "yes" if row.offline(root) else "no: ROOT/" + "/".join(row.folder)
        rows.append([row.name, str(row.nodes), "-" if row.edges is None else str(row.edges), row.source, at_hand])
    return head, rows


def listing_markdown(head: list[str], body: list[list[str]]) -> str:
    """Return a listing in markdown, arXiv numbers as links."""
    return markdown_of(head, [[f"`{row[0]}`", *map(_linked, row[1:])] for row in body])


def methods_table() -> str:
    """Return the markdown table of all methods, from their class attributes."""
    return listing_markdown(*methods_listing())


def figures_table() -> str:
    """Return the markdown table of all figures, from their class attributes."""
    return listing_markdown(*figures_listing())


def estimators_table() -> str:
    """Return the markdown table of all estimators of influence, from their class attributes."""
    return listing_markdown(*estimators_listing())


def losses_table() -> str:
    """Return the markdown table of all losses, from their class attributes."""
    return listing_markdown(*losses_listing())


def _linked(text: str) -> str:
    return re.sub(r"arXiv (\d{4}\.\d{4,5})", rf"[arXiv \1]({ARXIV}\1)", text)
