"""What `between.py` found, as tables."""

import math

from experiments.common import markdown
from experiments.mode_connectivity.barrier_correlations import correlations
from experiments.mode_connectivity.between_picture import heat
from experiments.mode_connectivity.between_rows import TOLERANCE, Row, of, spread
from experiments.mode_connectivity.over_graphs import graph_table, predictions


def to_retraining(rows: list[Row]) -> str:
    """Barriers from each model to retrained ones, by problem: medians over graphs, models and seeds."""
    head = ["problem", "model", "line, same start", "line, other start", "aligned", "curve", "of lines within .1", "n"]
    body = []
    for problem in dict.fromkeys(row["problem"] for row in rows):
        own = of(rows, problem=problem)
        for name in dict.fromkeys(row["first"] for row in of(own, kind="aligned")):
            same = [row["barrier_retain"] for row in of(own, kind="line", first=name, second="same start")]
            other = [row["barrier_retain"] for row in of(own, kind="line", first=name, second="retrain")]
            more = [
                [row["barrier_retain"] for row in of(own, kind=k, first=name, second="retrain")]
                for k in ("aligned", "curve")
            ]
            near = f"{sum(v <= TOLERANCE for v in same)}, {sum(v <= TOLERANCE for v in other)}"
            body.append([problem, name, spread(same), spread(other), *map(spread, more), near, str(len(same))])
    return markdown(head, body, 2)


def heat_table(rows: list[Row], problem: str) -> str:
    """The same as text."""
    names, found = heat(rows, problem)
    body = [
        [name, *("" if math.isnan(v) else f"{v:.2f}" for v in line)] for name, line in zip(names, found, strict=True)
    ]
    return markdown(["", *names], body)


def condition_table(rows: list[Row]) -> str:
    """Barriers under the conditions of the paper, and of the same method elsewhere."""
    body = []
    for problem in dict.fromkeys(row["problem"] for row in rows):
        own = of(rows, kind="condition", problem=problem)
        for key in dict.fromkeys((row["condition"], row["first"], row["second"]) for row in own):
            found = of(own, condition=key[0], first=key[1], second=key[2])
            both = [[row[f"barrier_{part}"] for row in found] for part in ("retain", "forget")]
            near = sum(all(v is None or v <= TOLERANCE for v in pair) for pair in zip(*both, strict=True))
            body.append([problem, key[0], f"{key[1]}, {key[2]}", *map(spread, both), f"{near} of {len(found)}"])
    return markdown(["problem", "condition", "pair", "barrier, retained", "barrier, forgotten", "connected"], body, 3)


def mean_table(rows: list[Row]) -> str:
    """Relearning of the mean along a line, beside the line's ends and middle."""
    body = []
    for problem in dict.fromkeys(row["problem"] for row in rows):
        own = of(rows, kind="mean", problem=problem)
        for first, second in dict.fromkeys((row["first"], row["second"]) for row in own):
            found = of(own, first=first, second=second)
            columns = {n: [row[f"{n}_relearn_steps"] for row in found] for n in ("first", "second", "middle", "mean")}
            steps = [spread(values, 0) for values in columns.values()]
            ends = zip(columns["first"], columns["second"], columns["mean"], strict=True)
            more = sum(mean > max(first, second) for first, second, mean in ends)
            body.append([problem, f"{first}, {second}", *steps, f"{more} of {len(found)}"])
    head = ["problem", "pair", "first", "second", "middle of the line", "mean along the curve", "slower than both"]
    return markdown(head, body, 2)


def tables(rows: list[Row]) -> dict[str, str]:
    """Every table by name."""
    found = {"to_retraining": to_retraining(rows), "conditions": condition_table(rows)}
    found |= {f"map_{problem}": heat_table(rows, problem) for problem in dict.fromkeys(row["problem"] for row in rows)}
    found |= {"correlations": correlations(rows), "graphs": graph_table(rows), "predictions": predictions(rows)}
    return {**found, "means": mean_table(rows)}
