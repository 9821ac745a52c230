"""What experiments/mode_connectivity/alignment.md says in words, counted from its rows."""

from statistics import median
from typing import Any

from experiments.mode_connectivity.between_rows import of
from tests.answers import check_said, check_unsaid, ends, page, rows_of

Row = dict[str, Any]
ROWS: list[Row] = rows_of("mode_connectivity", "alignment")
TEXT = page("mode_connectivity", "alignment")


def pairs(rows: list[Row], by: str, rescale: bool, child: str = "line") -> dict[tuple[Any, ...], Row]:
    found = of(rows, by=by, rescale=rescale, child=child)
    return {(row["layers"], row["dataset"], row["backbone"], row["seed"]): row for row in found}


def medians(found: dict[tuple[Any, ...], Row], name: str = "train_loss_barrier") -> dict[tuple[Any, ...], float]:
    """By layers, graph and model."""
    return {key[:3]: median(row[name] for at, row in found.items() if at[:3] == key[:3]) for key in found}


def wins(rows: list[Row], layers: int) -> tuple[int, int, int]:
    """In how many pairs messages have the higher correlation, of these the higher barrier; pairs."""
    weights, messages = pairs(rows, "weights", True), pairs(rows, "messages", True)
    keys = [key for key in weights if key[0] == layers]
    closer = [key for key in keys if messages[key]["correlation"] > weights[key]["correlation"]]
    higher = [key for key in closer if messages[key]["train_loss_barrier"] > weights[key]["train_loss_barrier"]]
    return len(closer), len(higher), len(keys)


def said(rows: list[Row]) -> list[str]:
    weights, messages = pairs(rows, "weights", False), pairs(rows, "messages", True)
    none = medians(pairs(rows, "none", False))
    left, other = medians(weights), medians(messages)
    two = [key for key in left if key[0] == 2]
    times = [other[key] / left[key] for key in two]
    gone = sorted(100 * (1 - left[key] / none[key]) for key in left)
    calibrated = [
        100 * (1 - medians(pairs(rows, by, rescale, "all calibrated"))[key] / before[key])
        for by, rescale, before in (("weights", False, left), ("messages", True, other))
        for key in before
    ]
    near = [medians(weights, name) for name in ("correlation", "best_correlation")] + [medians(messages, "correlation")]
    lost = of(rows, child="line", layers=2)
    lost = [row for row in lost if row["by"] in ("weights", "activations", "messages")]
    cells = {(row["dataset"], row["backbone"], row["by"], row["rescale"]) for row in lost}
    of_cells = [
        median(100 * row["test_acc_barrier"] for row in of(lost, dataset=d, backbone=k, by=by, rescale=r))
        for d, k, by, r in cells
    ]
    merged = [row["train_loss_barrier"] for row in of(rows, child="gnnmerge", layers=2)]
    flat, deep = wins(rows, 2), wins(rows, 3)
    return [
        f"It leaves {min(times):.2f} to {max(times):.2f} times as much with two layers",
        f"{other[3, 'Cora', 'gcn'] / left[3, 'Cora', 'gcn']:.2f} (GCN) and "
        f"{other[3, 'Cora', 'sage'] / left[3, 'Cora', 'sage']:.2f} (SAGE) times",
        f"takes away {gone[0]:.0f} to {gone[-1]:.0f} % of the barrier",
        f"in {flat[0]} of {flat[2]} pairs (rescaled both), and leave the higher barrier in {flat[1]} of those",
        "({} of {}; messages {})".format(*(ends([of_key[key] for key in two], 2) for of_key in near)),
        f"higher correlation in {deep[0]} of {deep[2]} pairs and the higher barrier in {deep[1]}",
        f"at most {max(of_cells):.1f} points of test accuracy are lost in the medians "
        f"({max(100 * row['test_acc_barrier'] for row in lost):.1f} in one pair)",
        f"takes away {min(calibrated):.0f} to {max(calibrated):.0f} % of what weight or message matching left",
        f"at most {max(merged):.3f}".replace("0.", ".") + " on every pair",
    ]


def test_the_findings_on_alignment_say_what_the_rows_say() -> None:
    check_said(said(ROWS), TEXT)


def test_other_rows_make_every_sentence_on_alignment_false() -> None:
    """The control: the weights' lines higher, calibrated ones too, messages less alike than weights, one seed fewer."""
    changed = []
    for row in ROWS:
        if row["seed"] == 2:
            continue
        times = 3 if row["by"] == "weights" and row["child"] == "line" else 1.5
        more = {"train_loss_barrier": times * row["train_loss_barrier"] + 0.01}
        more |= {"correlation": row["correlation"] - 0.2 * (row["by"] == "messages") - 0.1}
        more |= {"best_correlation": row["best_correlation"] - 0.1, "test_acc_barrier": row["test_acc_barrier"] + 0.01}
        changed.append({**row, **more})
    check_unsaid(said(changed), TEXT)
