"""Does the barrier to retraining foretell anything of an unlearned model? Rank correlations, and their intervals."""

import math
from collections import defaultdict
from collections.abc import Iterable
from statistics import mean, stdev
from typing import Any

import numpy as np
from scipy.stats import spearmanr, t

from experiments.common import markdown
from experiments.mode_connectivity.between_rows import Row, of

#: What the barrier to retraining may predict of an unlearned model, and in which words.
PREDICTED = {
    "far": "distance to retraining (JS forget, floors)",
    "relearn_steps": "steps of relearning",
    "attack": "attack (MIA accuracy; of links AUC), distance from one half",
}


def joined(rows: list[Row]) -> list[Row]:
    """For each unlearned model its barriers to retraining and what they may predict."""
    found = []
    for row in of(rows, kind="model"):
        where = {key: row[key] for key in ("problem", "graph", "backbone", "seed")}
        pairs = of(rows, **where, first=row["model"])
        barriers = {
            "same start": of(pairs, kind="line", second="same start"),
            "other start": of(pairs, kind="line", second="retrain"),
            "aligned": of(pairs, kind="aligned", second="retrain"),
        }
        if not all(barriers.values()) or row["model"] == "original":
            continue
        attack = row.get("mia_auc") if row["mia_acc"] is None else row["mia_acc"]
        floor, distance = row.get("js_floor_forget"), row.get("js_forget")
        found.append(
            {
                **where,
                "model": row["model"],
                **{name: pair[0]["barrier_retain"] for name, pair in barriers.items()},
                "far": distance / floor if floor and distance is not None else None,
                "relearn_steps": row["relearn_steps"],
                "attack": None if attack is None else abs(attack - 0.5),
            }
        )
    return found


def by_graph(rows: list[Row], x: str, y: str) -> dict[tuple[str, str], list[float]]:
    """Rank correlations by problem and graph, one of each case (model, seed) that can tell.

    Between cases barriers differ for other reasons.
    """
    cases: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row[y] is not None and row[x] is not None:
            cases[(row["problem"], row["graph"], row["backbone"], row["seed"])].append(row)
    found: dict[tuple[str, str], list[float]] = {(row["problem"], row["graph"]): [] for row in rows}
    for (problem, graph, *_), members in cases.items():
        a, b = ([row[name] for row in members] for name in (x, y))
        if len(members) >= 4 and len(set(a)) > 1 and len(set(b)) > 1:
            found[problem, graph].append(float(spearmanr(a, b).statistic))
    return found


def mean_of(found: Iterable[list[float]]) -> float | None:
    """Mean over all cases of all graphs; `None` without any."""
    values = [value for of_graph in found for value in of_graph]
    return mean(values) if values else None


def bootstrap(found: dict[tuple[str, str], list[float]], draws: int = 10_000) -> tuple[float, float]:
    """A 95 % interval of `mean_of` over graphs, drawn with replacement: cases of one graph are not independent."""
    known = [found[graph] for graph in sorted(found) if found[graph]]
    if not known:
        return math.nan, math.nan
    sums, counts = np.array([sum(values) for values in known]), np.array([len(values) for values in known])
    chosen = np.random.default_rng(0).integers(len(known), size=(draws, len(known)))
    low, high = np.quantile(sums[chosen].sum(1) / counts[chosen].sum(1), (0.025, 0.975))
    return float(low), float(high)


def student(found: dict[tuple[str, str], list[float]]) -> tuple[float, float]:
    """Student's 95 % interval of the mean over data sets: where there are few, it is wider than `bootstrap`."""
    means = [mean(values) for values in found.values() if values]
    if len(means) < 2:
        return math.nan, math.nan
    wide = float(t.ppf(0.975, len(means) - 1)) * stdev(means) / math.sqrt(len(means))
    return mean(means) - wide, mean(means) + wide


BARRIERS = ("same start", "other start", "aligned")
#: Fewer data sets have no interval: theirs are named one by one.
FEWEST = 5


def by_problem(rows: list[Row], x: str, y: str) -> dict[str, dict[tuple[str, str], list[float]]]:
    """`by_graph`, for each problem: nodes, links and digits differ in sign, and are not pooled."""
    found: dict[str, dict[tuple[str, str], list[float]]] = {row["problem"]: {} for row in rows}
    for (problem, graph), values in by_graph(rows, x, y).items():
        found[problem][problem, graph] = values
    return found


def said_of(found: dict[tuple[str, str], list[float]]) -> str:
    """The mean over cases, with an interval over data sets, or the smallest and largest mean of a data set."""
    value = mean_of(found.values())
    if value is None:
        return ""
    means = [mean(values) for values in found.values() if values]
    if len(means) >= FEWEST:
        low, high = bootstrap(found)
        return f"{value:.2f} ({low:.2f}, {high:.2f})"
    return f"{value:.2f} [{min(means):.2f}, {max(means):.2f}]" if len(means) > 1 else f"{value:.2f}"


def correlations(rows: list[Row]) -> str:
    """Rank correlation of barriers to retraining with what they may predict, by problem."""
    found, body = joined(rows), []
    for name, words in PREDICTED.items():
        columns = [by_problem(found, barrier, name) for barrier in BARRIERS]
        for problem in columns[0]:
            own = [column[problem] for column in columns]
            sets = sum(bool(values) for values in own[-1].values())
            cases = sum(len(values) for values in own[-1].values())
            body.append([words, problem, *map(said_of, own), str(sets), str(cases)])
    return markdown(["", "problem", "line, same start", "line, other start", "aligned", "data sets", "cases"], body, 2)


def ranges(rows: list[Row], barrier: str, problem: str = "nodes") -> list[tuple[float, float]]:
    """For each case the range of this barrier over its unlearned models, and the largest, in nats."""
    cases: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for row in of(joined(rows), problem=problem):
        cases[(row["graph"], row["backbone"], row["seed"])].append(row[barrier])
    return [(max(values) - min(values), max(values)) for values in cases.values()]
