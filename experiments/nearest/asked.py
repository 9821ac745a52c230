"""What was asked of `auto` and what it reaches, from the rows of the study; see README.md here."""

from collections.abc import Iterable
from statistics import median
from typing import Any

from experiments.common import markdown
from experiments.nearest.misses import BOUND, FARTHER, UTILITY, Row, beside_retraining, medians, problems

#: Shares of the training's steps that were asked for: up to 10 items, 10 % of the nodes, 2.5 % of the edges.
PRICES = {"nodes": (1 / 20, 1 / 8), "edges": (1 / 20, 1 / 5)}
_ROUNDED = 1e-4  # of a price


def allowed(forget: str, size: float) -> float:
    """Return the share of the training's steps that was asked for."""
    return PRICES[forget][0 if size >= 1 else 1]


def by_heart(hard: list[Row], decays: bool, method: str, budget: float | None) -> dict[str, float]:
    """Return the farthest part of flipped labels by backbone: a median over seeds."""
    found: dict[str, dict[int, Row]] = {}
    for row in hard:
        options = row["options"]
        told = (row["method"], row["mode"], options.get("budget"), options.get("shrink", 1))
        flipped = row["forget"] == "flipped_labels" and bool(row["recipe"]["weight_decay"]) is decays
        if flipped and told == (method, "default", budget, 1):
            found.setdefault(row["backbone"], {})[row["seed"]] = row
    return {backbone: max(medians(seeds)) for backbone, seeds in found.items()}


def table(rows: list[Row], hard: list[Row]) -> str:
    """Return what was asked, what is reached, and whether that is all of it."""
    cells = problems(rows)
    own = {problem: medians(methods["auto:default"]) for problem, methods in cells.items()}
    nothing = {problem: medians(methods["utu:default"]) for problem, methods in cells.items()}
    gaps = [max(a - b for a, b in zip(own[p], nothing[p], strict=True)) for p in cells]
    prices = {p: median(row["price"] for row in m["auto:default"].values()) for p, m in cells.items()}
    lines = [
        share(
            "within 2 floors on what was forgotten, retained and test items", (max(f) <= BOUND for f in own.values())
        ),
        share("within 1.5 floors in three quarters of them", (max(f) <= 1.5 for f in own.values()), 0.75),
        share(
            "utility within .005 of retraining",
            (abs(beside_retraining(m, "auto:default")) <= UTILITY for m in cells.values()),
        ),
        share(
            "a twentieth of the steps, an eighth, a fifth",
            (v <= allowed(p[0], p[3]) + _ROUNDED for p, v in prices.items()),
        ),
        share("never farther than doing nothing", (gap <= 0 for gap in gaps)),
        share("the same, by more than a tenth of a floor", (gap <= FARTHER for gap in gaps)),
    ]
    decayed, plain = by_heart(hard, True, "continued_training", 0.1), by_heart(hard, False, "auto", None)
    for words, bound, found in (
        ("flipped labels, weight decay: 2 floors for a tenth", 2, decayed),
        ("flipped labels, no weight decay: 4 floors for a fifth", 4, plain),
    ):
        reached = ", ".join(f"{net.upper()} {value:.1f}" for net, value in found.items())
        lines.append([words, reached, "yes" if max(found.values()) <= bound else "no"])
    return markdown(["asked", "reached", "all of it"], lines, 2)


def share(words: str, held: Iterable[bool], part: float = 1.0) -> list[Any]:
    """Return a line of the table: in how many problems something holds."""
    known = list(held)
    return [words, f"{sum(known)} of {len(known)}", "yes" if sum(known) >= part * len(known) else "no"]
