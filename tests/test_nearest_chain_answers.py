"""What experiments/nearest/README.md says in words of requests one after another, counted again from committed rows."""

from statistics import median
from typing import Any

from experiments.nearest.__main__ import PARTS
from experiments.nearest.one_after_another import WAYS
from tests.answers import check_said, check_unsaid, check_ways, ends, page, rows_of, short

Row = dict[str, Any]
TEXT = page("nearest")
CHAIN = rows_of("nearest", "one_after_another")
UTU, ESTIMATES, STATE, _, AT_ONCE = WAYS


def middles(rows: list[Row], kind: str) -> list[dict[str, list[float]]]:
    """Return the medians over seeds of each part's floors, by way, for each problem of a kind."""
    found: dict[tuple[Any, ...], dict[str, list[list[float]]]] = {}
    for row in rows:
        if row["forget"] == kind:
            problem = found.setdefault((row["dataset"], row["backbone"], row["count"]), {})
            problem.setdefault(row["way"], []).append(row["floors"])
    return [
        {way: [median(part) for part in zip(*floors, strict=True)] for way, floors in problem.items()}
        for problem in found.values()
    ]


def of(problems: list[dict[str, list[float]]], way: str, part: str) -> list[float]:
    return [problem[way][PARTS.index(part)] for problem in problems]


def said(rows: list[Row]) -> list[str]:
    nodes, links = (middles(rows, kind) for kind in ("nodes", "links"))
    later = [a - b for a, b in zip(of(links, STATE, "forget"), of(links, AT_ONCE, "forget"), strict=True)]
    nearer = sum(a < b for a, b in zip(of(links, ESTIMATES, "forget"), of(links, STATE, "forget"), strict=True))
    apart = [a - b for a, b in zip(of(nodes, STATE, "forget"), of(nodes, AT_ONCE, "forget"), strict=True)]
    both = [max(of(nodes, way, "forget")) for way in (ESTIMATES, STATE)]
    return [
        f"with it retained edges end at {ends(of(links, STATE, 'retain'), 1)} floors, where estimates, which cannot go "
        f"back, leave them at {ends(of(links, ESTIMATES, 'retain'), 1)} (doing nothing: "
        f"{ends(of(links, UTU, 'retain'), 1)})",
        f"On the forgotten edges estimates end nearer in {nearer} of {len(links)} problems",
        f"Ten requests leave forgotten edges {ends(later, 1)} floors farther than one request for all of them",
        f"estimates end as near (at most {short(both[0], 1)} floors on the forgotten, the state {short(both[1], 1)}; "
        f"doing nothing {ends(of(nodes, UTU, 'forget'), 0)})",
        f"Ten requests end at most {short(max(apart), 1)} floors farther on the forgotten than one for all",
    ]


def test_the_answers_on_requests_in_a_row_say_what_the_rows_say() -> None:
    check_said(said(CHAIN), TEXT)


def test_every_problem_has_three_seeds_of_every_way() -> None:
    """A run that was killed leaves fewer."""
    check_ways(CHAIN, ("forget", "dataset", "backbone", "count"), WAYS, problems=16)


def test_other_rows_make_every_sentence_on_requests_in_a_row_false() -> None:
    """The control: ways in another order, and everything farther away."""
    order = dict(zip(WAYS, (*WAYS[1:], UTU), strict=True))
    changed = [{**row, "way": order[row["way"]], "floors": [1.4 * f + 0.2 for f in row["floors"]]} for row in CHAIN]
    check_unsaid(said(changed), TEXT)
