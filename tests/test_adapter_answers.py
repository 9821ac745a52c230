"""What experiments/mode_connectivity/between.md says of lines between adapters, counted from its rows."""

from typing import Any

from experiments.mode_connectivity.between_rows import TOLERANCE
from tests.answers import check_said, check_unsaid, page, rows_of

Row = dict[str, Any]
ROWS: list[Row] = rows_of("mode_connectivity", "adapters")
TEXT = page("mode_connectivity", "between")


def connected(rows: list[Row]) -> list[tuple[str, str]]:
    """Pairs without retraining that both losses call connected."""
    inner = [row for row in rows if row["second"] != "retrain"]
    near = [row for row in inner if max(row["barrier_retain"], row["barrier_forget"]) <= TOLERANCE]
    return [(row["first"], row["second"]) for row in near]


def said(rows: list[Row]) -> list[str]:
    """Sentences on lines between adapters."""
    apart = sorted(row["barrier_retain"] for row in rows if row["second"] == "retrain")
    inner = [row for row in rows if row["second"] != "retrain"]

    def end_of(name: str, part: str) -> float:
        return next(row[f"loss_{part}"][-1] for row in rows if (row["first"], row["second"]) == ("original", name))

    (seeds,) = (row["barrier_forget"] for row in inner if (row["first"], row["second"]) == ("npo", "npo, seed 1"))
    return [
        f"is {apart[0]:.1f} to {apart[-1]:.1f} nats away",
        f"By the forgotten loss {len(connected(rows))} of {len(inner)} pairs",
        f"SimNPO forgot nothing at this rate (forgotten loss {end_of('simnpo', 'forget'):.2f})",
        f"was destroyed (retained loss {end_of('graddiff', 'retain'):.2f} nats)",
        f"Two seeds of NPO are not connected ({seeds:.2f})",
    ]


def test_what_is_said_of_adapters_stands_in_their_rows() -> None:
    check_said(said(ROWS), TEXT)
    assert connected(ROWS) == [("original", "simnpo"), ("npo", "graddiff")]  # "neither joins two models that ..."


def test_other_rows_make_every_sentence_on_adapters_false() -> None:
    """The control: higher barriers and losses."""
    changed = [
        {**row, **{k: 2 * v + 0.2 for k, v in row.items() if k.startswith("barrier")}}
        | {k: [v + 1 for v in row[k]] for k in ("loss_retain", "loss_forget")}
        for row in ROWS
    ]
    check_unsaid(said(changed), TEXT)
