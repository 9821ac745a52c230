"""The figures as tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.common import markdown
from gunlearn.report.frontier_table import three_digits

COLUMNS = {
    "forget_prob": "forget prob",
    "forget_rougeL": "forget ROUGE",
    "forget_truth_ratio": "truth ratio",
    "forget_quality": "forget quality (KS p)",
    "forget_alignment": "alignment, forget",
    "retain_alignment": "alignment, retain",
    "retain_prob": "retain prob",
    "mia_loss": "MIA AUC, loss",
    "mia_min_k": "min-k",
    "others_before": "others",
    "others_relearned": "others, relearned",
    "steps": "steps",
}
GENERAL = {"real_authors": "real authors", "world_facts": "world facts"}
#: What the first lines are of.
FIXED = ("pretrained", "original", "retrained 0", "retrained 1")


def table(results: Mapping[str, Any], number: int) -> str:
    """One line per model: what is forgotten, how near it is to retraining, and what stays."""
    body = []
    for row in order(results[f"request {number}"]["rows"]):
        gain, low, high = (three_digits(row.get(f"forget_alignment_gain{end}")) for end in ("", "_low", "_high"))
        shown = gain if gain == "-" else f"{gain} ({low} to {high})"
        cells = [three_digits(row.get(key)) for key in COLUMNS]
        body.append([row["model"], shown, *cells])
    return markdown(("model", "gain (interval)", *COLUMNS.values()), body)


def knowledge(results: Mapping[str, Any], number: int) -> str:
    """General knowledge: the answer's share of probability among the given ones, and ROUGE-L."""
    head = [f"{name}, {figure}" for name in GENERAL.values() for figure in ("share", "ROUGE")]
    body = []
    for row in order(results[f"request {number}"]["rows"]):
        values = [row.get(f"{part}_{figure}") for part in GENERAL for figure in ("prob", "rougeL")]
        values += [general(row), row.get("model_utility")]
        body.append([row["model"], *map(three_digits, values)])
    return markdown(("model", *head, "mean of both shares", "model utility"), body)


def general(row: Mapping[str, Any]) -> float:
    """The mean of both shares."""
    return sum(row[f"{part}_prob"] for part in GENERAL) / len(GENERAL)


def searched(results: Mapping[str, Any], number: int) -> str:
    """What was tried, on the halves that settings are chosen on."""
    found, keys = results[f"request {number}"], ("forget_prob", "retain_prob", "forget_nll", "judged")
    head = ("method", "rate or factor", "forget prob", "retain prob", "forget nats per token", "judged", "steps")
    body = [
        [name, f"{one['setting']:g}", *(three_digits(one[key]) for key in keys), str(one["steps"])]
        for name, tried in found["tried"].items()
        for one in tried
    ]
    return markdown(head, body)


def tables(results: Mapping[str, Any]) -> dict[str, str]:
    """Every table of the README by its name."""
    out = {}
    for number in (1, 2):
        if f"request {number}" in results:
            out |= {f"request{number}": table(results, number), f"general{number}": knowledge(results, number)}
            out[f"searched{number}"] = searched(results, number)
    return out


def order(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What nothing was forgotten from first, the others by their distance."""
    return sorted(
        rows,
        key=lambda row: (
            FIXED.index(row["model"]) if row["model"] in FIXED else len(FIXED),
            row.get("forget_alignment") or 0,
        ),
    )
