"""What experiments/nearest/README.md says in words of a push before settling, counted again from the committed rows."""

import copy
from typing import Any

from experiments.nearest.push_then_settle import by_problem, cell, farthest
from tests.answers import check_said, check_unsaid, ends, page, rows_of, short

Row = dict[str, Any]
TEXT = page("nearest")
PUSH = rows_of("nearest", "push")


class Table:
    """Cells of the table, as numbers."""

    def __init__(self, rows: list[Row]) -> None:
        self.problems = {key: list(seeds.values()) for key, seeds in by_problem(rows).items()}

    def control(self, key: tuple[Any, ...], way: str) -> float:
        return farthest([row for one in self.problems[key] for row in one if row["push"] == way])

    def both(self, key: tuple[Any, ...], push: str) -> list[float]:
        """Return the settled push with the chosen strength, and with the nearest."""
        return [float(value) for value in cell(self.problems[key], push).split(" / ")[1:]]

    def keys(self, kind: str, decays: bool) -> list[tuple[Any, ...]]:
        return [key for key in self.problems if key[0] == kind and bool(key[3]) == decays]


def said(rows: list[Row]) -> list[str]:
    table = Table(rows)
    decayed, plain = table.keys("flipped_labels", True), table.keys("flipped_labels", False)
    alone = [table.control(key, "none") for key in plain]
    pushed = [table.both(key, push)[1] for key in plain for push in ("npo", "scrub", "gif")]
    shrunk, auto = [table.both(key, "shrink")[1] for key in plain], [table.control(key, "auto") for key in plain]
    whole = table.keys("classes", True)
    settled, own = ([short(table.control(key, way), 1) for key in whole] for way in ("none", "auto"))
    (edges,) = table.keys("planted_edges", False)
    return [
        f"settling alone ends the flipped labels at {ends([table.control(key, 'none') for key in decayed], 1)} floors",
        f"settling alone leaves flipped labels at {ends(alone, 1)}, and the nearest of them ends at {ends(pushed, 1)}",
        f"Shrinking does ({ends(shrunk, 1)} in hindsight), and `auto`'s teacher does more ({ends(auto, 1)})",
        f"settling for a fifth of the steps ({' and '.join(settled)} floors) ends nearer than `auto` for an eighth "
        f"({' and '.join(own)})",
        f"(doing nothing: {short(table.control(edges, 'utu'), 1)})",
        f"changes nothing ({short(table.both(edges, 'inpo')[1], 1)}; settling alone "
        f"{short(table.control(edges, 'none'), 1)})",
    ]


def test_the_answers_say_what_the_rows_say() -> None:
    check_said(said(PUSH), TEXT)


def test_no_push_is_nearer_where_weights_decayed() -> None:
    table = Table(PUSH)
    for key in table.keys("flipped_labels", True):
        for push in ("npo", "scrub", "gif", "shrink"):
            assert min(table.both(key, push)) > round(table.control(key, "none"), 1) - 0.15


def test_shrinking_is_never_chosen_without_decay() -> None:
    table = Table(PUSH)
    for key in table.keys("flipped_labels", False):
        chosen, nearest = table.both(key, "shrink")
        assert chosen == round(table.control(key, "none"), 1) > 2 * nearest


def test_other_rows_make_every_sentence_false() -> None:
    """The control."""
    rows = copy.deepcopy(PUSH)
    for row in rows:
        row |= {part: 1.4 * row[part] for part in ("forget", "retain", "test")}
    check_unsaid(said(rows), TEXT)
