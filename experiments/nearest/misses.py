"""Where `auto` misses what it should reach, from the rows of `python -m experiments.nearest`; see README.md here."""

from collections.abc import Iterable
from statistics import median
from typing import Any

from experiments.common import markdown
from experiments.nearest.__main__ import PARTS, floors, size_of

Row = dict[str, Any]
Problem = tuple[str, str, str, float]
BOUND, FARTHER, UTILITY = 2.0, 0.1, 0.005


def problems(rows: Iterable[Row]) -> dict[Problem, dict[str, dict[int, Row]]]:
    """Return rows by problem (request, graph, model, size), by method with its mode, and by seed."""
    found: dict[Problem, dict[str, dict[int, Row]]] = {}
    for row in rows:
        if row["method"] != "original" and not row.get("error"):
            size = size_of(row)
            problem = found.setdefault((row["forget"], row["dataset"], row["backbone"], size), {})
            problem.setdefault(f"{row['method']}:{row['mode']}", {})[row["seed"]] = row
    return found


def medians(seeds: dict[int, Row]) -> list[float]:
    """Return the distance of each part in floors, in the median over seeds."""
    far = [floors(row) for row in seeds.values()]
    return [median(one[part] for one in far) for part in PARTS]


def beside_retraining(methods: dict[str, dict[int, Row]], name: str) -> float:
    """Return accuracy on test nodes or AUC on test edges, less the first retrained model's: a median over seeds."""
    of, retrained = methods[name], methods["retrain:default"]
    figure = "test_acc" if "test_acc" in next(iter(of.values())) else "retain_auc"
    return median(row[figure] - retrained[seed][figure] for seed, row in of.items())


def apart(rows: Iterable[Row]) -> dict[Problem, float]:
    """Return how far retrained models are apart in utility, by problem: a median over seeds."""
    found: dict[Problem, dict[int, float]] = {}
    for row in rows:
        problem = (row["forget"], row["dataset"], row["backbone"], size_of(row))
        found.setdefault(problem, {})[row["seed"]] = row["utility_floor"]
    return {problem: median(seeds.values()) for problem, seeds in found.items()}


def table(rows: list[Row], retrained: list[Row]) -> str:
    """Return one line per problem in which the rows of `auto` miss something; doing nothing in brackets.

    Args:
        rows: of all methods.
        retrained: those that say how far retrained models are apart in utility.
    """
    floors_of_utility = apart(retrained)
    lines = []
    for (forget, *which, size), methods in problems(rows).items():
        own, nothing = (medians(methods[f"{name}:default"]) for name in ("auto", "utu"))
        utility = [beside_retraining(methods, f"{name}:default") for name in ("auto", "utu")]
        missed = {
            "2 floors": max(own) > BOUND,
            "nothing done": max(a - b for a, b in zip(own, nothing, strict=True)) > FARTHER,
            "utility": abs(utility[0]) > UTILITY,
        }
        if any(missed.values()):
            cells = [f"{a:.2f} ({b:.2f})" for a, b in zip(own, nothing, strict=True)]
            cells.append("{:+.3f} ({:+.3f})".format(*utility))
            floor = floors_of_utility.get((forget, *which, size)) if missed["utility"] else None
            cells.append("" if floor is None else f"{floor:.3f}")
            what = ", ".join(name for name, fails in missed.items() if fails)
            lines.append([forget, *which, f"{size:g}", what, *cells, str(len(methods["auto:default"]))])
    head = ["forget", "graph", "model", "size", "missed", *(f"{part}, floors" for part in PARTS)]
    return markdown([*head, "accuracy or AUC", "retrained apart", "seeds"], lines, 5)
