"""The table of a study of denoisers: means over seeds, and what a method's figures say together."""

from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from experiments.common import markdown, sides

#: A model looks as if it had forgotten one thing and kept the others from this UA on, and with an RA that is no more
#: than so much below the untouched model's.
LOOKS, LOST = 0.9, 0.05
HEAD = (
    *("model", "UA", "RA", "RA, nearest", "RA, rest", "Fréchet", "forget loss", "retain loss"),
    *("alignment", "in floors", "error", "gain", "its interval", "gain, retained", "price", "s", "verdict"),
)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows of one request; of the gain each seed's interval by its ends, the lowest and the highest."""
    names = dict.fromkeys("retrained" if is_of(row, "retrained") else row["model"] for row in rows)
    order = sorted((n for n in names if n != "itself"), key=lambda n: {"original": 0, "retrained": 1}.get(n, 2))
    kept = mean(row["ira"] for row in rows if row["model"] == "original")
    return markdown(HEAD, [line(name, [row for row in rows if is_of(row, name)], kept) for name in order])


def by_turn(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return a table for each of two requests, and how far the first class came back in the second."""
    found = {f"request_{turn}": table([row for row in rows if row["turn"] == turn]) for turn in (1, 2)}
    return {**found, "rebound": rebound(rows)}


def is_of(row: dict[str, Any], name: str) -> bool:
    """Return whether a row is of a model, or of one of the retrained ones."""
    return row["model"] == name or (name == "retrained" and row["model"].startswith("retrained "))


def line(name: str, runs: Sequence[dict[str, Any]], kept: float) -> list[str]:
    """Return the cells of one model; `kept` is the untouched model's RA."""
    good = [run for run in runs if not run.get("error") and not run.get("broken")]
    if not good:
        said = runs[0].get("error") or "draws NaN"
        return [name, *[""] * (len(HEAD) - 2), f"refused: {said[:80]}"]
    cells = [cell(good, "ua", ".2f"), *(cell(good, key, ".2f") for key in ("ira", "nearest", "rest"))]
    cells += [cell(good, "frechet", ".2f"), cell(good, "forget_loss", ".3f"), cell(good, "retain_loss", ".3f")]
    cells += [cell(good, "alignment_forget", ".3f"), floors(good), cell(good, "alignment_forget_error", ".3f", False)]
    ours = name not in ("original", "retrained")
    cells += [cell(good, "alignment_forget_gain", ".2f") if ours else "-", interval(good) if ours else "-"]
    cells += [cell(good, "alignment_retain_gain", ".2f", False) if ours else "-"]
    cells += [cell(good, "price", ".2f", False), cell(good, "seconds", ".0f", False)]
    return [name, *cells, verdict(good, kept) if ours else ""]


def cell(runs: Sequence[dict[str, Any]], key: str, spec: str, spread: bool = True) -> str:
    """Return the mean of a figure over runs, with its standard deviation."""
    values = [run[key] for run in runs if run.get(key) is not None]
    if not values:
        return "-"
    return f"{mean(values):{spec}}" + (f" ± {stdev(values):{spec}}" if spread and len(values) > 1 else "")


def floors(runs: Sequence[dict[str, Any]]) -> str:
    """Return the mean alignment in mean distances between retrained models."""
    both = [(run.get("alignment_forget"), run.get("alignment_forget_floor")) for run in runs]
    values = [value / floor for value, floor in both if value is not None and floor]
    return f"{mean(values):.2f}" if values else "-"


def interval(runs: Sequence[dict[str, Any]]) -> str:
    """Return the lowest and the highest end of the runs' intervals of the gain."""
    keys = "alignment_forget_gain_low", "alignment_forget_gain_high"
    low, high = ([run[key] for run in runs if key in run] for key in keys)
    return f"{min(low):.2f} to {max(high):.2f}" if low and high else "-"


def verdict(runs: Sequence[dict[str, Any]], kept: float) -> str:
    """Return what a method is: collapsed, looks forgotten or not, and on which side of the untouched model.

    `kept` is the untouched model's RA.
    """
    said = ["collapsed"] if any(run.get("warned") for run in runs) else []
    if mean(run["ua"] for run in runs) >= LOOKS and mean(run["ira"] for run in runs) >= kept - LOST:
        said.append("looks forgotten")
    ends = [(run.get("alignment_forget_gain_low"), run.get("alignment_forget_gain_high")) for run in runs]
    return ", ".join([*said, sides(ends)])


def rebound(rows: Sequence[dict[str, Any]]) -> str:
    """Return how often the judge sees the first forgotten class when it is asked for, after each request."""
    first = next(iter(rows[0]["seen"]))
    lines = []
    for name in dict.fromkeys(row["model"] for row in rows if row["model"] != "itself"):
        seen = {
            turn: [row["seen"][first] for row in rows if (row["model"], row["turn"]) == (name, turn) and "seen" in row]
            for turn in (1, 2)
        }
        if all(seen.values()):
            before, after = (mean(values) for values in seen.values())
            lines.append([name, f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}"])
    return markdown(["model", "after the first request", "after the second", "rebound"], lines)
