"""What experiments/nearest/README.md says in words of nodes with the largest gap, counted again from its rows."""

from statistics import median

from experiments.nearest.__main__ import PARTS
from tests.answers import check_said, ends, page, rows_of, short

TEXT = page("nearest")
ROWS = rows_of("nearest", "largest_gap")
TENTH = "continued training, a tenth"


def of(field: str, decay: float, way: str) -> list[float]:
    """Medians over seeds with GCN and with SAGE."""
    found: list[list[float]] = [
        [row[field] for row in ROWS if (row["backbone"], row["decay"], row["way"]) == (kind, decay, way)]
        for kind in ("gcn", "sage")
    ]
    assert all(len(values) == 3 for values in found)
    return [median(values) for values in found]


def test_the_answers_say_what_the_rows_say() -> None:
    gaps = {decay: [row["gap"] for row in ROWS if row["decay"] == decay] for decay in (5e-4, 0.0)}
    tenth = max(max(of(f"floors_{part}", 5e-4, TENTH)) for part in PARTS)
    rest = max(max(of(f"floors_{part}", 0.0, "auto")) for part in ("retain", "test"))
    away, left, before, ended = (
        of("floors_forget", *given) for given in ((5e-4, "utu"), (0.0, TENTH), (0.0, "utu"), (0.0, "auto"))
    )
    steps, retrained = (of("relearn_steps", 5e-4, way) for way in (TENTH, "retrain"))
    inside, of_retrained = (of("mia_item_auc", 0.0, way) for way in ("auto", "retrain"))
    assert {*of("relearn_steps", 0.0, "auto"), *of("relearn_steps", 0.0, "retrain")} == {300}
    said = [
        f"is {ends(gaps[5e-4], 2)} with weight decay and {ends(gaps[0.0], 2)} without (means), where it is "
        f"{ends([row['gap_of_all'] for row in ROWS], 2)} over all",
        f"within {tenth:.1f} floors on every part (medians), where `utu` is {away[0]:.0f} and {away[1]:.0f} away",
        f"({steps[0]:.0f} and {steps[1]:.0f}; {retrained[0]:.0f} and {retrained[1]:.0f})",
        " and ".join(f"{a:.1f} of {b:.1f}" for a, b in zip(left, before, strict=True)) + " floors",
        f"ends at {ended[0]:.1f} and {ended[1]:.1f} on the forgotten and at most {rest:.1f} on the rest",
        f"still {short(inside[0], 2)} with GCN (SAGE {short(inside[1], 2)}; retrained "
        f"{short(of_retrained[0], 2)} and {short(of_retrained[1], 2)})",
    ]
    check_said(said, TEXT)
    assert ended[1] < 4 < ended[0]
