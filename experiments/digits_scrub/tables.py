"""The tables of the study, from its rows."""

from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from experiments.common import markdown

Row = dict[str, Any]
COMPARED = {
    "class": ("forget_error", "retain_error", "test_error", "js_forget", "js_test"),
    "confusion": ("ic_err", "fgt_err", "ic_err_retain", "retain_error", "test_error", "js_forget"),
    "privacy": ("mia_acc", "mia_auc", "forget_error", "val_error", "retain_error", "test_error", "js_forget"),
}
HEADINGS = {
    "forget_error": "forget error", "retain_error": "retain error", "test_error": "test error",
    "js_forget": "JS forget", "js_test": "JS test",
    "ic_err": "IC-ERR", "fgt_err": "FGT-ERR", "ic_err_retain": "IC-ERR retain",
    "mia_acc": "basic attack", "mia_auc": "MIA AUC", "val_error": "val. error", "auc": "LiRA AUC",
    "global_auc": "AUC of one threshold", "accuracy": "LiRA accuracy", "tpr": "TPR at FPR .05",
    "steps": "steps", "retain_acc": "retain accuracy",
}  # fmt: skip


def cell(rows: Sequence[Row], figure: str) -> str:
    """Mean and standard deviation over seeds; of a seed without one, the number of those that have one."""
    values = [row[figure] for row in rows if row.get(figure) is not None]
    if not values:
        return "-"
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    spec = ".0f" if figure == "steps" else ".1f" if figure == "fgt_err" else ".3f"
    return f"{mean(values):{spec}}" + (spread if spec == ".3f" else "")


def by(rows: Sequence[Row], *names: str) -> dict[tuple, list[Row]]:
    found: dict[tuple, list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row.get(name) for name in names), []).append(row)
    return found


def compared(rows: Sequence[Row], figures: Sequence[str], first: str = "method") -> str:
    """A line per method, with what marks its runs: refused, collapsed, or left the wrong way."""
    body = []
    for (name,), of in by(rows, "method").items():
        marks = [
            f"{sum(1 for row in of if test(row))} {word}"
            for word, test in (
                ("refused", lambda row: "error" in row), ("collapsed", lambda row: bool(row.get("collapsed"))),
                ("wrong way", lambda row: row.get("direction") == "wrong"),
            )
            if any(test(row) for row in of)
        ]  # fmt: skip
        seeds = len({row["seed"] for row in of})
        body.append([str(name), *(cell(of, figure) for figure in figures), str(seeds), ", ".join(marks) or "-"])
    return markdown([first, *(HEADINGS[figure] for figure in figures), "seeds", "marked"], body)


def directions(rows: Sequence[Row]) -> str:
    body = []
    for (temperature, alpha, msteps), of in by(rows, "temperature", "alpha", "msteps").items():
        errors = [row["forget_error"] for row in of]
        told = sum(row["direction"] == "wrong" for row in of)
        high = sum(value >= 0.9 for value in errors)
        line = [f"{temperature:g}", f"{alpha:g}", str(msteps), " ".join(f"{v:.2f}" for v in errors)]
        body.append([*line, f"{high} of {len(of)}", str(told)])
    head = ["T", "alpha", "msteps", "forget error by seed", "at least .9", "told that it is the wrong way"]
    return markdown(head, body, left=3)


def stalls(rows: Sequence[Row]) -> str:
    body = []
    for (name,), of in by(rows, "method").items():
        d = [row["d"] for row in of if "d" in row]
        ends = [row["forget_divergence"] for row in of if "forget_divergence" in row]
        line = [" ".join(f"{run[k]:.1e}" for run in d) or "-" for k in (4, 20, 39)] if d else ["-", "-"]
        line += [] if d else [" ".join(f"{value:.1e}" for value in ends) or "-"]
        errors = " ".join("refused" if "error" in row else f"{row['forget_error']:.2f}" for row in of)
        body.append([str(name), *line, errors, str(sum(row.get("direction") == "wrong" for row in of))])
    head = [
        "run",
        "d before step 5",
        "before step 21",
        "before step 40, or at the end",
        "forget error by seed",
        "wrong way",
    ]
    return markdown(head, body)


def convergence(rows: Sequence[Row]) -> str:
    body = [
        [f"{lr:g}", str(size), " ".join(f"{row['loss']:.1e}" for row in of), cell(of, "forget_error")]
        for (lr, size), of in by(rows, "lr", "batch_size").items()
    ]
    return markdown(["rate", "batch", "training loss by seed", "forget error of fine-tuning"], body, left=3)


def matched(rows: Sequence[Row]) -> str:
    body = [
        [f"{lr:g}", *names, " ".join(str(row.get("steps")) for row in of), cell(of, "steps"), cell(of, "retain_acc")]
        for (lr, *names), of in by([row for row in rows if "kind" in row], "lr", "kind", "method").items()
    ]
    for (name,), of in by([row for row in rows if "kind" not in row], "method").items():
        body.append(["-", str(name), f"{len(of)} refused", "-", "-", "-"])
    return markdown(["rate", "forgotten", "method", "steps by seed", "mean", "retain accuracy"], body, left=3)


TABLES = {"convergence": convergence, "direction": directions, "stall": stalls, "imu": matched}


def tables(rows: Sequence[Row]) -> dict[str, str]:
    """Every table by its name."""
    parts = {part: of for (part,), of in by(rows, "part").items()}
    found = {name: compared(parts[name], figures) for name, figures in COMPARED.items() if name in parts}
    if "lira" in parts:
        found["lira"] = compared(parts["lira"], ("auc", "global_auc", "accuracy", "tpr"))
    for name, table in TABLES.items():
        if name in parts:
            found[name] = table(parts[name])
    return found
