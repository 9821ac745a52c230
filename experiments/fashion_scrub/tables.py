"""The tables of the study."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from experiments.common import markdown
from experiments.nearest.__main__ import PARTS, floors
from gunlearn.report.summary import LOSS

#: Figures of a row that are written.
KEPT = (
    *("forget_acc", "retain_acc", "test_acc", "mia_auc", "ic_err", "fgt_err"),
    *("js_forget", "js_retain", "js_test", "js_floor_forget", "js_floor_retain", "js_floor_test"),
)


def tables(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return one table per problem; medians over seeds (and over the three retrained models)."""
    problems = dict.fromkeys(row["problem"] for row in rows)
    return {name: table([row for row in rows if row["problem"] == name]) for name in problems}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows of a problem, the nearest to retraining on what was forgotten first.

    `*` marks what is no nearer than the untouched model, `!` what loses more than .03 of accuracy on test items.
    """
    order = {"retrain": -2, "original": -1}
    grouped = {m: [r for r in rows if r["method"] == m] for m in dict.fromkeys(r["method"] for r in rows) if m != "utu"}
    confused = any(row.get("ic_err") is not None for row in rows)
    head = ["method", *(f"{p}, floors" for p in PARTS), "forget acc", "retain acc", "test acc", "MIA AUC"]
    head += ["IC-ERR", "FGT-ERR"] if confused else []
    head += ["price", "s"]
    start = _middle(grouped.get("original", []), "forget")
    best = _figure(grouped.get("retrain", []), "test_acc")
    lines = []
    for method, own in sorted(
        grouped.items(), key=lambda item: (order.get(item[0], 0), _middle(item[1], "forget") or 0)
    ):
        errors = [row["error"] for row in own if row["error"]]
        if errors:
            lines.append([method, f"refused: {errors[0]}", *[""] * (len(head) - 2)])
            continue
        far = [_middle(own, part) for part in PARTS]
        behind = method not in order and None not in (far[0], start) and far[0] >= start
        accuracy = _figure(own, "test_acc")
        fails = method not in order and None not in (accuracy, best) and accuracy < best - LOSS
        cells = [_short(far[0], 2) + (" \\*" if behind else ""), *(_short(value, 2) for value in far[1:])]
        cells += [_short(_figure(own, name), 3) for name in ("forget_acc", "retain_acc", "test_acc")]
        cells[-1] += " !" if fails else ""
        cells.append(_short(_figure(own, "mia_auc"), 3))
        cells += [_short(_figure(own, "ic_err"), 3), _short(_figure(own, "fgt_err"), 0)] if confused else []
        lines.append([method, *cells, _short(_figure(own, "price"), 2), _short(_figure(own, "seconds"), 1)])
    return markdown(head, lines)


def _middle(rows: Sequence[dict[str, Any]], part: str) -> float | None:
    values = [far for row in rows if (far := floors(row).get(part)) is not None]
    return median(values) if values else None


def _figure(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if row.get(name) is not None]
    return median(values) if values else None


def _short(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
