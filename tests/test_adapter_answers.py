"""What experiments/mode_connectivity/between.md says of lines between adapters, counted from its rows."""

from typing import Any

from experiments.mode_connectivity.between_rows import TOLERANCE, of
from tests.answers import check_said, check_unsaid, page, rows_of

Row = dict[str, Any]
ROWS: list[Row] = rows_of("mode_connectivity", "adapters")
TEXT = page("mode_connectivity", "between")


def inner(rows: list[Row]) -> list[Row]:
    """Pairs without retraining."""
    return [row for row in rows if row["second"] != "retrain"]


def connected(rows: list[Row]) -> list[Row]:
    """Pairs without retraining that both losses call connected."""
    return [row for row in inner(rows) if max(row["barrier_retain"], row["barrier_forget"]) <= TOLERANCE]


def ends_of(rows: list[Row], name: str, part: str) -> list[float]:
    return [row[f"loss_{part}"][-1] for row in of(rows, first="original", second=name)]


def said(rows: list[Row]) -> list[str]:
    """Sentences on lines between adapters."""
    apart = sorted(row["barrier_retain"] for row in of(rows, second="retrain"))
    seeds = sorted(row["barrier_forget"] for row in of(rows, first="npo", second="npo, seed 1"))
    return [
        f"is {apart[0]:.1f} to {apart[-1]:.1f} nats away",
        f"By the forgotten loss {len(connected(rows))} of {len(inner(rows))} pairs",
        f"SimNPO forgot nothing at this rate (forgotten loss at most {max(ends_of(rows, 'simnpo', 'forget')):.2f})",
        f"was destroyed (retained loss at least {min(ends_of(rows, 'graddiff', 'retain')):.2f} nats)",
        f"Two seeds of NPO are not connected ({seeds[0]:.2f} to {seeds[-1]:.2f})",
    ]


def works(row: Row, end: int) -> bool:
    """Whether a model of a pair forgot, and still answers what stays."""
    return row["loss_forget"][end] > 1 and row["loss_retain"][end] < 2


def test_what_is_said_of_adapters_stands_in_their_rows() -> None:
    check_said(said(ROWS), TEXT)
    assert {row["seed"] for row in ROWS} == {0, 1, 2}
    assert not [row for row in connected(ROWS) if works(row, 0) and works(row, -1)]
    assert max(row["barrier_retain"] for row in inner(ROWS)) < 0.05  # "no retained barrier"


def test_other_rows_make_every_sentence_on_adapters_false() -> None:
    """The control: higher barriers and losses."""
    changed = [
        {**row, **{k: 2 * v + 0.2 for k, v in row.items() if k.startswith("barrier")}}
        | {k: [v + 1 for v in row[k]] for k in ("loss_retain", "loss_forget")}
        for row in ROWS
    ]
    check_unsaid(said(changed), TEXT)
