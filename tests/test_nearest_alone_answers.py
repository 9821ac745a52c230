"""What experiments/nearest/README.md says in words of an optimiser alone, counted again from the committed rows."""

from statistics import median
from typing import Any

from experiments.nearest.optimizer_alone import WAYS
from gunlearn.training.settled import GROWING
from tests.answers import check_said, check_unsaid, check_ways, ends, page, rows_of, short

Row = dict[str, Any]
TEXT = page("nearest")
ALONE = rows_of("nearest", "optimizer_alone")
UTU, ON, BACK, AUTO, STATE = WAYS


BRIEF = "Adam 2e-3, 200"
DECAYED = ("settled", "unsettled", "looks settled")


def problems(rows: list[Row]) -> dict[str, list[dict[str, list[float]]]]:
    """Return each part by way, in medians over seeds: problems by whether their training had settled.

    By its growth; 200 steps whose norm hardly grew only look as if they had.
    """
    cells: dict[tuple[Any, ...], dict[str, list[list[float]]]] = {}
    growth: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("dataset", "backbone", "training", "size"))
        cells.setdefault(key, {}).setdefault(row["way"], []).append(row["floors"])
        growth.setdefault(key, []).append(row["growth"])
    found: dict[str, list[dict[str, list[float]]]] = {name: [] for name in (*DECAYED, "by heart")}
    for key, of in cells.items():
        kind = "unsettled" if median(growth[key]) > GROWING else "looks settled" if key[2] == BRIEF else "settled"
        kind = "by heart" if "no decay" in key[2] else kind
        found[kind].append({way: [median(part) for part in zip(*far, strict=True)] for way, far in of.items()})
    return found


def nearer(cells: list[dict[str, list[float]]], way: str, other: str) -> str:
    return f"{sum(max(cell[way]) <= max(cell[other]) for cell in cells)} of {len(cells)}"


def said(rows: list[Row]) -> list[str]:
    of = problems(rows)
    short_ones, looks = of["unsettled"], of["looks settled"]
    once = {tuple(row[name] for name in ("dataset", "backbone", "training", "seed")): row for row in rows}
    known = [row for row in once.values() if row["remembered"] is not None]
    ratios = [row["remembered"] / row["growth"] for row in known]
    middle = {way: median(max(cell[way]) for cell in short_ones) for way in WAYS}

    def range_of(kind: str, way: str, digits: int) -> str:
        return ends((max(cell[way]) for cell in of[kind]), digits)

    farther = sum(max(c[ON]) > max(c[UTU]) for c in short_ones)
    gains = [max(c[UTU]) - max(c[BACK]) for c in short_ones]
    kept = [ends((cell[way][1] for cell in looks), 1) for way in (UTU, AUTO)]
    return [
        f"tells {ends(ratios, 2)} of the growth that a checkpoint tells (median {short(median(ratios))}; {len(known)} "
        f"of {len(once)} trainings, the others are noise or had settled)",
        f"going on ends farther than doing nothing in {farther} of {len(short_ones)} problems (medians "
        f"{middle[ON]:.1f} and {middle[UTU]:.1f} floors)",
        f"going back first is at least as near as doing nothing in {nearer(short_ones, BACK, UTU)}, and as going on in "
        f"{nearer(short_ones, BACK, ON)}: {middle[BACK]:.1f} floors, `auto` {middle[AUTO]:.1f}, with the state "
        f"{middle[STATE]:.1f}. The gain over doing nothing is small, {short(median(gains))} floors in the median",
        f"without weight decay `auto` ends at {range_of('by heart', AUTO, 1)} floors, with the state at "
        f"{range_of('by heart', STATE, 1)} (doing nothing: {range_of('by heart', UTU, 0)})",
        f"Where it had settled `auto` ends at {range_of('settled', AUTO, 1)} (with the state "
        f"{range_of('settled', STATE, 1)}; doing nothing {range_of('settled', UTU, 0)})",
        f"`auto` ends at {range_of('looks settled', AUTO, 1)} floors (doing nothing: "
        f"{range_of('looks settled', UTU, 1)}) and takes what is retained from {kept[0]} to {kept[1]}",
    ]


def test_the_answers_on_an_optimiser_alone_say_what_the_rows_say() -> None:
    check_said(said(ALONE), TEXT)


def test_every_problem_has_three_seeds_of_each_way() -> None:
    check_ways(ALONE, ("dataset", "backbone", "training", "size"), WAYS, problems=40)


def test_other_rows_make_every_sentence_on_an_optimiser_alone_false() -> None:
    """The control: ways in another order, farther away, and other growths."""
    order = dict(zip(WAYS, (*WAYS[1:], UTU), strict=True))
    changed = [
        {**row, "way": order[row["way"]], "floors": [1.4 * f + 0.2 for f in row["floors"]], "growth": 2 * row["growth"]}
        for row in ALONE
    ]
    check_unsaid(said(changed), TEXT)
