"""The figures as a table."""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from experiments.common import markdown as table
from gunlearn.report.frontier_table import three_digits

COLUMNS = {
    "forget_prob": "forget prob",
    "forget_rougeL": "forget ROUGE",
    "forget_quality": "forget quality (KS p)",
    "forget_alignment": "alignment, forget",
    "forget_alignment_gain": "gain",
    "retain_alignment": "alignment, retain",
    "model_utility": "utility",
    "retain_prob": "retain prob",
    "forget_drma": "DRMA",
    "mia_min_k": "MIA AUC",
    "steps": "steps",
    "seconds": "seconds",
}

#: Of rows that go on with the training: median over seeds, and from the lowest to the highest.
HELD = {
    "forget_alignment": "alignment, forget",
    "retain_alignment": "alignment, retain",
    "forget_prob": "forget prob",
    "retain_prob": "retain prob",
    "mia_min_k": "MIA AUC",
    "relearn_steps": "steps of relearning",
    "relearn_others": "others relearned",
    "steps": "steps",
}


def continued(results: Mapping[str, Any]) -> str:
    """The rows that have a figure of relearning, over all seeds of a share of the questions."""
    body = []
    for share in dict.fromkeys(name.split()[0] for name in results):
        found = [results[name]["rows"] for name in results if name.split()[0] == share]
        for name in dict.fromkeys(row["model"] for rows in found for row in order(rows) if "relearn_others" in row):
            own = [row for rows in found for row in rows if row["model"] == name]
            body.append([share, name, str(len(own)), *(spread([row.get(key) for row in own]) for key in HELD)])
    return table(("questions", "model", "seeds", *HELD.values()), body, left=2)


def spread(values: Sequence[float | None]) -> str:
    """The median, and the lowest and the highest in brackets where they differ."""
    known = sorted(math.inf if value is None else value for value in values)
    low, middle, high = (
        three_digits(None if value == math.inf else value) for value in (known[0], median(known), known[-1])
    )
    return middle if low == high else f"{middle} ({low} to {high})"


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """One line per model; `+`: nearer to the retrained models on forgotten questions than the original is.

    Nearer means that the whole bootstrap interval lies below the original's value.
    """
    body = []
    bound = next((row.get("forget_alignment", 0.0) for row in rows if row["model"] == "original"), 0.0)
    for row in order(rows):
        nearer = not reference(row) and row.get("forget_alignment_high", bound) < bound
        body.append([row["model"] + (" +" if nearer else ""), *(three_digits(row.get(key)) for key in COLUMNS)])
    return table(("model", *COLUMNS.values()), body)


def reference(row: dict[str, Any]) -> bool:
    """Whether a row is the original's or a retrained model's."""
    return row["model"] == "original" or row["model"].startswith("retrained")


def order(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """References first, the others by their distance."""
    return sorted(rows, key=lambda row: (not reference(row), row.get("forget_alignment") or 0, row["model"]))
