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


def table(results: Sequence[Mapping[str, Any]], number: int) -> str:
    """One line per model: what is forgotten, how near it is to retraining, and what stays.

    Of several seeds the mean stands with the smallest and the largest value.
    """
    body, several = [], len(results) > 1
    for name, rows in by_model(results, number).items():
        gains = [[row.get(f"forget_alignment_gain{end}") for row in rows] for end in ("", "_low", "_high")]
        interval = "" if several or gains[0][0] is None else " ({} to {})".format(*(shown(gain) for gain in gains[1:]))
        cells = [shown([row.get(key) for row in rows]) for key in COLUMNS]
        body.append([name, shown(gains[0]) + interval, *cells, *([str(len(rows))] if several else [])])
    head = ("model", "gain" if several else "gain (interval)", *COLUMNS.values(), *(["seeds"] if several else []))
    return markdown(head, body)


def knowledge(results: Sequence[Mapping[str, Any]], number: int) -> str:
    """General knowledge: the answer's share of probability among the given ones, and ROUGE-L."""
    head = [f"{name}, {figure}" for name in GENERAL.values() for figure in ("share", "ROUGE")]
    body = []
    for name, rows in by_model(results, number).items():
        values = [[row.get(f"{part}_{key}") for row in rows] for part in GENERAL for key in ("prob", "rougeL")]
        values += [[general(row) for row in rows], [row.get("model_utility") for row in rows]]
        body.append([name, *map(shown, values)])
    return markdown(("model", *head, "mean of both shares", "model utility"), body)


def by_model(results: Sequence[Mapping[str, Any]], number: int) -> dict[str, list[Mapping[str, Any]]]:
    """Each model's rows, a seed each: what nothing was forgotten from first, the others by their distance."""
    rows = [row for one in results for row in one.get(f"request {number}", {"rows": []})["rows"]]
    found = {row["model"]: [other for other in rows if other["model"] == row["model"]] for row in rows}

    def place(name: str) -> tuple[int, float]:
        distances = [row.get("forget_alignment") or 0 for row in found[name]]
        return FIXED.index(name) if name in FIXED else len(FIXED), sum(distances) / len(distances)

    return {name: found[name] for name in sorted(found, key=place)}


def shown(values: Sequence[float | None]) -> str:
    """One value, or the mean of several with the smallest and the largest."""
    known = [value for value in values if value is not None]
    if len(known) < 2 or min(known) == max(known):
        return three_digits(known[0] if known else None)
    return "{} ({} to {})".format(*map(three_digits, (sum(known) / len(known), min(known), max(known))))


def general(row: Mapping[str, Any]) -> float:
    """The mean of both shares."""
    return sum(row[f"{part}_prob"] for part in GENERAL) / len(GENERAL)


def searched(results: Sequence[Mapping[str, Any]], number: int) -> str:
    """What was tried, on the halves that settings are chosen on."""
    keys, several = ("forget_prob", "retain_prob", "forget_nll", "judged"), len(results) > 1
    head = ("method", "rate or factor", "forget prob", "retain prob", "forget nats per token", "judged", "steps")
    found: dict[tuple[str, float], list[Any]] = {}
    for one in results:
        for name, tried in one.get(f"request {number}", {"tried": {}})["tried"].items():
            for setting in tried:
                found.setdefault((name, setting["setting"]), []).append(setting)
    body = [
        [name, f"{value:g}", *(shown([one[key] for one in of]) for key in keys), shown([one["steps"] for one in of])]
        + ([str(len(of))] if several else [])
        for (name, value), of in found.items()
    ]
    return markdown((*head, "seeds") if several else head, body)


def tables(*results: Mapping[str, Any]) -> dict[str, str]:
    """Every table of the README by its name, of one seed's results or of several seeds'."""
    out = {}
    for number in (1, 2):
        if any(f"request {number}" in one for one in results):
            out |= {f"request{number}": table(results, number), f"general{number}": knowledge(results, number)}
            out[f"searched{number}"] = searched(results, number)
    return out
