"""What `uses.py` found, as tables."""

from collections.abc import Iterable
from typing import Any

from experiments.common import markdown
from experiments.mode_connectivity.between_rows import Row, of, spread


def unique(rows: Iterable[Row], *names: str) -> list[tuple[str, ...]]:
    """Values of these fields, each once, in their order."""
    return list(dict.fromkeys(tuple(row[name] for name in names) for row in rows))


def cells(found: list[Row]) -> list[str]:
    """Distances in floors and what the models are worth."""
    parts = [spread([row[f"floors_{part}"] for row in found], 1) for part in ("forget", "retain", "test")]
    return [*parts, spread([row["worth"] for row in found], 3)]


POINTS = ("original", "method", "best", "chosen", "by a retrained model")
HEAD = ["forgotten, floors", "retained", "test", "test accuracy or AUC"]


def dial_table(rows: list[Row]) -> str:
    """Distance on what was forgotten, in floors, at five points of a dial; on what is retained at two of them."""
    body = []
    rows = of(rows, kind="dial")
    for problem, model, path in unique(rows, "problem", "model", "path"):
        at = {point: of(rows, problem=problem, model=model, path=path, point=point) for point in POINTS}
        ts, forgotten, retained = (
            {point: spread([row[name] for row in found], digits) for point, found in at.items()}
            for name, digits in (("t", 2), ("floors_forget", 1), ("floors_retain", 1))
        )
        ends = [retained[point] for point in ("method", "chosen")]
        body.append([problem, model, path, ts["chosen"], *forgotten.values(), *ends, str(len(at["chosen"]))])
    head = ["problem", "method", "path", "chosen t", *POINTS]
    return markdown([*head, "retained: method", "retained: chosen", "n"], body, 4)


def mcu_table(rows: list[Row]) -> str:
    """MCU beside what makes its curve's end."""
    body = []
    rows = of(rows, kind="mcu")
    for problem, model in unique(rows, "problem", "model"):
        found = of(rows, problem=problem, model=model)
        body.append([problem, model, spread([row.get("t") for row in found]), *cells(found), str(len(found))])
    return markdown(["problem", "method", "t", *HEAD, "n"], body, 2)


def mcu_pairs(rows: list[Row]) -> list[dict[str, Any]]:
    """Counts of cases, for each problem and each method that made the other end."""
    rows, found = of(rows, kind="mcu"), []
    for problem, model in unique(rows, "problem", "model"):
        if not model.startswith("mcu, "):
            continue
        cases = []
        for row in of(rows, problem=problem, model=model):
            where = {key: row[key] for key in ("problem", "graph", "backbone", "seed")}
            names = {"end": model.removeprefix("mcu, "), "continued": "continued_training", "nothing": "original"}
            cases.append({"mcu": row, **{key: of(rows, **where, model=name)[0] for key, name in names.items()}})
        counts = {
            f"{than}, {part}": compared([(c["mcu"][f"floors_{part}"], c[than][f"floors_{part}"]) for c in cases])
            for than in ("end", "continued", "nothing")
            for part in ("forget", "retain")
        }
        found.append({"problem": problem, "before": model.removeprefix("mcu, "), "n": len(cases), **counts})
    return found


def compared(pairs: Iterable[tuple[float, float]]) -> tuple[int, int, int]:
    """How often the first is smaller, equal, larger."""
    signs = [(a > b) - (a < b) for a, b in pairs]
    return signs.count(-1), signs.count(0), signs.count(1)


def mcu_pair_table(rows: list[Row]) -> str:
    """Counts of cases in which MCU is nearer to retraining, equally near, farther."""
    keys = ("end, forget", "end, retain", "continued, forget", "nothing, forget")
    body = [
        [row["problem"], row["before"], *(" / ".join(map(str, row[key])) for key in keys), str(row["n"])]
        for row in mcu_pairs(rows)
    ]
    head = ["problem", "other end", "than its other end: forgotten", "retained"]
    return markdown([*head, "than continued training: forgotten", "than doing nothing: forgotten", "n"], body, 2)


#: On these cases the rule of `Dial.choose` was changed (validation items of a class that goes as a whole do not count).
SEEN = ("nodes", ("Cora", "CiteSeer"))


def dial_choice(rows: list[Row]) -> list[dict[str, Any]]:
    """On straight lines, what the dial chose; cases on whose graphs its rule was changed are groups of their own."""
    groups: dict[tuple[str, bool], list[tuple[Row, ...]]] = {}
    for row in of(rows, kind="dial", path="linear", point="chosen"):
        where = {key: row[key] for key in ("problem", "graph", "backbone", "seed", "model")}
        other = (of(rows, **where, kind="dial", path="linear", point=name)[0] for name in ("method", "best"))
        seen = row["problem"] == SEEN[0] and row["graph"] in SEEN[1]
        groups.setdefault((row["problem"], seen), []).append((row, *other))
    found = []
    for (problem, seen), cases in groups.items():
        shares = {
            "whole way": sum(chosen["t"] == 1 for chosen, *_ in cases),
            "best is the end": sum(best["t"] == 1 for *_, best in cases),
            "within a tenth": sum(c["floors_forget"] <= 1.1 * best["floors_forget"] for c, _, best in cases),
            "end within a tenth": sum(end["floors_forget"] <= 1.1 * best["floors_forget"] for _, end, best in cases),
        }
        names = ("chosen", "method", "best")
        floors = {name: [case[k]["floors_forget"] for case in cases] for k, name in enumerate(names)}
        found.append({"problem": problem, "seen": seen, "n": len(cases), **shares, **floors})
    return found


def dial_choice_table(rows: list[Row]) -> str:
    """The dial's choice on straight lines, in and out of sample."""
    body = []
    for row in dial_choice(rows):
        counts = [str(row[key]) for key in ("whole way", "best is the end", "within a tenth", "end within a tenth")]
        floors = [spread(row[key], 1) for key in ("chosen", "method", "best")]
        body.append([row["problem"], "in" if row["seen"] else "out", *counts, *floors, str(row["n"])])
    head = ["problem", "of sample", "takes all of the way", "the end is best", "within a tenth of the best: chosen"]
    return markdown([*head, "the end", "chosen, floors", "the end", "best", "n"], body, 2)


def request_table(rows: list[Row]) -> str:
    """Two requests: each alone, between them, added, and at once."""
    body = []
    rows = of(rows, kind="requests")
    for problem, model, which in unique(rows, "problem", "model", "which"):
        found = of(rows, problem=problem, model=model, which=which)
        body.append([problem, model, which, *cells(found), str(len(found))])
    return markdown(["problem", "method", "model", *HEAD, "n"], body, 3)


def between_requests(rows: list[Row]) -> str:
    """Barriers on the line between the models of two requests."""
    body = []
    rows = of(rows, kind="requests", which="middle")
    for problem, model in unique(rows, "problem", "model"):
        found = of(rows, problem=problem, model=model)
        barriers = [spread([row[f"barrier_{part}"] for row in found], 3) for part in ("retain", "forget")]
        body.append([problem, model, *barriers, str(len(found))])
    return markdown(["problem", "method", "barrier, retained", "barrier, forgotten", "n"], body, 2)


def tables(rows: list[Row]) -> dict[str, str]:
    """Every table by name."""
    return {
        "dials": dial_table(rows),
        "dial_choice": dial_choice_table(rows),
        "mcu": mcu_table(rows),
        "mcu_pairs": mcu_pair_table(rows),
        "requests": request_table(rows),
        "between_requests": between_requests(rows),
    }
