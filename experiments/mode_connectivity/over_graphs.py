"""Barriers over graphs, beside what the graphs are."""

from experiments.common import markdown
from experiments.mode_connectivity.between_rows import Row, barrier, of, spread


def over_graphs(rows: list[Row]) -> list[Row]:
    """For each graph its figures and the barriers between the original and a model retrained from other weights.

    `curve_val` is the curve's barrier on validation items, which it never saw, of rows that have their loss.
    """
    found = []
    for about in of(rows, kind="graph"):
        for backbone in dict.fromkeys(row["backbone"] for row in of(rows, problem="nodes", graph=about["graph"])):
            own = of(rows, problem="nodes", graph=about["graph"], backbone=backbone, first="original", second="retrain")
            barriers = {k: [row["barrier_retain"] for row in of(own, kind=k)] for k in ("line", "aligned", "curve")}
            barriers["curve_val"] = [barrier(row["loss_val"]) for row in of(own, kind="curve") if row.get("loss_val")]
            found.append({**about, "backbone": backbone, **barriers})
    return found


def graph_table(rows: list[Row]) -> str:
    """Barriers over graphs, beside homophily, spectral gap, size of its component, density and degree."""
    head = ["graph", "model", "homophily", "spectral gap", "its share", "density", "mean degree"]
    body = [
        [
            row["graph"], row["backbone"], f"{row['homophily']:.2f}", f"{row['spectral_gap']:.4f}",
            f"{row['largest_component']:.2f}", f"{row['density']:.4f}", f"{row['mean_degree']:.1f}",
            spread(row["line"]), spread(row["aligned"]), spread(row["curve"], 3), str(len(row["line"])),
        ]
        for row in over_graphs(rows)
    ]  # fmt: skip
    return markdown([*head, "line", "aligned", "curve", "seeds"], body, 2)
