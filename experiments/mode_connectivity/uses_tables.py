"""What `uses.py` found, as tables."""

from collections.abc import Iterable

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
        "mcu": mcu_table(rows),
        "requests": request_table(rows),
        "between_requests": between_requests(rows),
    }
