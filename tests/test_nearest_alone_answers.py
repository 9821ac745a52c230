"""What experiments/nearest/README.md says in words of an optimiser alone, counted again from the committed rows."""

from statistics import median
from typing import Any

from experiments.nearest.optimizer_alone import WAYS
from tests.answers import check_said, check_unsaid, ends, page, rows_of, short

Row = dict[str, Any]
TEXT = page("nearest")
ALONE = rows_of("nearest", "optimizer_alone")
UTU, ON, BACK, AUTO, STATE = WAYS


def problems(rows: list[Row], settled: bool, drifts: bool = True) -> list[dict[str, float]]:
    """Return the farthest part by way, in the median over seeds, of trainings with decay."""
    found: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    for row in rows:
        if (row["training"] == "Adam 1e-2, 500") is settled and ("no decay" not in row["training"]) is drifts:
            key = tuple(row[name] for name in ("dataset", "backbone", "training", "size"))
            found.setdefault(key, {}).setdefault(row["way"], []).append(max(row["floors"]))
    return [{way: median(values) for way, values in of.items()} for of in found.values()]


def nearer(cells: list[dict[str, float]], way: str, other: str) -> str:
    return f"{sum(cell[way] <= cell[other] for cell in cells)} of {len(cells)}"


def said(rows: list[Row]) -> list[str]:
    short_ones, heart = problems(rows, settled=False), problems(rows, settled=False, drifts=False)
    settled = problems(rows, settled=True)
    once = {tuple(row[name] for name in ("dataset", "backbone", "training", "size", "seed")): row for row in rows}
    known = [row for row in once.values() if row["remembered"] is not None]
    ratios = [row["remembered"] / row["growth"] for row in known]
    middle = {way: median(cell[way] for cell in short_ones) for way in WAYS}
    return [
        f"tells {ends(ratios, 2)} of the growth that a checkpoint tells (median {short(median(ratios))}; {len(known)} "
        f"of {len(once)} trainings, the others are noise or had settled)",
        f"going on ends farther than doing nothing in {sum(c[ON] > c[UTU] for c in short_ones)} of {len(short_ones)} "
        f"problems (medians {middle[ON]:.1f} and {middle[UTU]:.1f} floors)",
        f"going back first is at least as near as doing nothing in {nearer(short_ones, BACK, UTU)}, and as going on in "
        f"{nearer(short_ones, BACK, ON)}: {middle[BACK]:.1f} floors, `auto` {middle[AUTO]:.1f}, with the state "
        f"{middle[STATE]:.1f}",
        f"without weight decay `auto` ends at {ends((c[AUTO] for c in heart), 1)} floors, with the state at "
        f"{ends((c[STATE] for c in heart), 1)} (doing nothing: {ends((c[UTU] for c in heart), 0)})",
        f"Where it had settled `auto` ends at {ends((c[AUTO] for c in settled), 1)} (with the state "
        f"{ends((c[STATE] for c in settled), 1)}; doing nothing {ends((c[UTU] for c in settled), 0)})",
    ]


def test_the_answers_on_an_optimiser_alone_say_what_the_rows_say() -> None:
    check_said(said(ALONE), TEXT)


def test_every_problem_has_three_seeds_of_each_way() -> None:
    found: dict[tuple[Any, ...], set[tuple[str, int]]] = {}
    for row in ALONE:
        key = tuple(row[name] for name in ("dataset", "backbone", "training", "size"))
        found.setdefault(key, set()).add((row["way"], row["seed"]))
    assert len(found) == 40
    assert all(kept == {(way, seed) for way in WAYS for seed in (0, 1, 2)} for kept in found.values())


def test_other_rows_make_every_sentence_on_an_optimiser_alone_false() -> None:
    """The control: ways in another order, farther away, and other growths."""
    order = dict(zip(WAYS, (*WAYS[1:], UTU), strict=True))
    changed = [
        {**row, "way": order[row["way"]], "floors": [1.4 * f + 0.2 for f in row["floors"]], "growth": 2 * row["growth"]}
        for row in ALONE
    ]
    check_unsaid(said(changed), TEXT)
