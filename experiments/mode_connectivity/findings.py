"""What `between.py` found, as tables."""

import math
from collections import defaultdict
from statistics import median

from experiments.common import markdown
from experiments.mode_connectivity.barrier_correlations import correlations
from experiments.mode_connectivity.between_picture import heat
from experiments.mode_connectivity.between_rows import RETRAINED, TOLERANCE, Row, of, spread
from experiments.mode_connectivity.over_graphs import graph_table, held_out_table
from experiments.mode_connectivity.statements import predictions


def to_retraining(rows: list[Row]) -> str:
    """Barriers from each model to retrained ones, by problem: medians over graphs, models and seeds."""
    head = ["problem", "model", "line, same start", "line, other start", "aligned", "curve", "within .1: same, other"]
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
    return markdown([*head, "n"], body, 2)


def heat_table(rows: list[Row], problem: str) -> str:
    """The same as text."""
    names, found = heat(rows, problem)
    body = [
        [name, *("" if math.isnan(v) else f"{v:.2f}" for v in line)] for name, line in zip(names, found, strict=True)
    ]
    return markdown(["", *names], body)


def group_of(row: Row) -> str | None:
    """Which models a line of the map joins; `None` of two retrained ones."""
    if row["first"] in RETRAINED:
        return None
    which = "original" if row["first"] == "original" else "unlearned"
    if row["second"] in RETRAINED:
        return f"{which}, {row['second']}"
    return "original, unlearned" if which == "original" else "two methods"


def group_table(rows: list[Row]) -> str:
    """How many lines of the map are within the tolerance, by the models that they join."""
    body = []
    for problem in dict.fromkeys(row["problem"] for row in rows):
        groups: dict[str | None, list[tuple[float, float]]] = defaultdict(list)
        for row in of(rows, kind="line", problem=problem):
            groups[group_of(row)].append((row["barrier_retain"], row["barrier_forget"]))
        for name, pairs in groups.items():
            if name:
                retain, forget = zip(*pairs, strict=True)
                counts = [sum(v <= TOLERANCE for v in values) for values in (retain, forget, map(max, pairs))]
                body.append([problem, name, spread(retain), spread(forget), *map(str, counts), str(len(pairs))])
    head = ["problem", "lines between", "barrier, retained", "barrier, forgotten"]
    return markdown([*head, "retained within .1", "forgotten within .1", "connected", "n"], body, 2)


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


def slower(row: Row, than: str) -> bool:
    """Whether the mean along the curve takes more steps to learn again than both ends, or both trained ends."""
    return row["mean_relearn_steps"] > max(row[f"{end}{than}_relearn_steps"] for end in ("first", "second"))


def mean_table(rows: list[Row]) -> str:
    """Relearning of the mean along a curve, beside the ends and the middle of the line between them."""
    body = []
    for problem, first, second in pairs_of_means(rows):
        found = of(rows, kind="mean", problem=problem, first=first, second=second)
        steps = [spread([row[f"{n}_relearn_steps"] for row in found], 0) for n in ("first", "second", "middle", "mean")]
        more = sum(slower(row, "") for row in found)
        body.append([problem, f"{first}, {second}", *steps, f"{more} of {len(found)}"])
    head = ["problem", "pair", "first", "second", "middle of the line", "mean along the curve", "slower than both"]
    return markdown(head, body, 2)


def control_table(rows: list[Row]) -> str:
    """The mean along a curve beside the ends after as many plain steps, where these were measured."""
    rows, body = [row for row in rows if row.get("first_trained_relearn_steps") is not None], []
    names = ("mean", "first_trained", "second_trained")
    for problem, first, second in pairs_of_means(rows):
        found = of(rows, kind="mean", problem=problem, first=first, second=second)
        steps = [spread([row[f"{n}_relearn_steps"] for row in found], 0) for n in names]
        losses = [
            " / ".join(f"{median(row[f'{n}_loss_{part}'] for row in found):.2f}" for n in names)
            for part in ("retain", "forget")
        ]
        more = sum(slower(row, "_trained") for row in found)
        body.append([problem, f"{first}, {second}", *steps, *losses, f"{more} of {len(found)}"])
    head = ["problem", "pair", "mean along the curve", "first, trained on", "second, trained on"]
    return markdown([*head, "retained loss of the three", "forgotten loss", "mean slower than both"], body, 2)


def equal_table(rows: list[Row]) -> str:
    """The mean along a curve beside the ends after plain steps until they know what stays as well, where measured."""
    rows, body = [row for row in rows if row.get("first_equal_relearn_steps") is not None], []
    names = ("mean", "first_equal", "second_equal")
    for problem, first, second in pairs_of_means(rows):
        found = of(rows, kind="mean", problem=problem, first=first, second=second)
        known = [row for row in found if row.get("second_equal_relearn_steps") is not None]
        steps = [spread([row[f"{n}_relearn_steps"] for row in known], 0) for n in names]
        taken = spread([row[f"{end}_equal_steps"] for row in known for end in ("first", "second")], 0)
        losses = " / ".join(f"{median(row[f'{n}_loss_retain'] for row in known):.2f}" for n in names)
        more = sum(slower(row, "_equal") for row in known)
        body.append([problem, f"{first}, {second}", *steps, taken, losses, f"{more} of {len(known)}"])
    head = ["problem", "pair", "mean along the curve", "first, as good", "second, as good", "plain steps"]
    return markdown([*head, "retained loss of the three", "mean slower than both"], body, 2)


def pairs_of_means(rows: list[Row]) -> list[tuple[str, str, str]]:
    """Problems, and the models between which means were taken."""
    return list(dict.fromkeys((row["problem"], row["first"], row["second"]) for row in of(rows, kind="mean")))


def tables(rows: list[Row]) -> dict[str, str]:
    """Every table by name."""
    found = {"to_retraining": to_retraining(rows), "groups": group_table(rows), "conditions": condition_table(rows)}
    found |= {f"map_{problem}": heat_table(rows, problem) for problem in dict.fromkeys(row["problem"] for row in rows)}
    found |= {
        "correlations": correlations(rows),
        "graphs": graph_table(rows),
        "held_out": held_out_table(rows),
        "predictions": predictions(rows),
    }
    return {**found, "means": mean_table(rows), "control": control_table(rows), "equal": equal_table(rows)}
