"""Barriers over graphs, beside what the graphs are."""

from experiments.common import markdown
from experiments.mode_connectivity.between_rows import TOLERANCE, Row, barrier, of, spread

PATHS = ("line", "aligned", "curve")


def over_graphs(rows: list[Row]) -> list[Row]:
    """For each graph its figures and the barriers between the original and a model retrained from other weights.

    `line_val`, `aligned_val` and `curve_val` are barriers on validation items, which no training lowered.
    """
    found = []
    for about in of(rows, kind="graph"):
        for backbone in dict.fromkeys(row["backbone"] for row in of(rows, problem="nodes", graph=about["graph"])):
            own = of(rows, problem="nodes", graph=about["graph"], backbone=backbone, first="original", second="retrain")
            barriers = {k: [row["barrier_retain"] for row in of(own, kind=k)] for k in PATHS}
            for k in PATHS:
                barriers[f"{k}_val"] = [barrier(row["loss_val"]) for row in of(own, kind=k) if row.get("loss_val")]
            found.append({**about, "backbone": backbone, **barriers})
    return found


def graph_table(rows: list[Row]) -> str:
    """Barriers over graphs, beside homophily, spectral gap, size of its component, density, degree, separability."""
    head = ["graph", "model", "homophily", "spectral gap", "its share", "density", "mean degree", "separability"]
    body = [
        [
            row["graph"], row["backbone"], f"{row['homophily']:.2f}", f"{row['spectral_gap']:.4f}",
            f"{row['largest_component']:.2f}", f"{row['density']:.4f}", f"{row['mean_degree']:.1f}",
            f"{row['separability']:.2f}",
            spread(row["line"]), spread(row["aligned"]), spread(row["curve"], 3), str(len(row["line"])),
        ]
        for row in over_graphs(rows)
    ]  # fmt: skip
    return markdown([*head, "line", "aligned", "curve", "seeds"], body, 2)


def held_out_table(rows: list[Row]) -> str:
    """Barriers on validation items over graphs; in how many cases each is within the tolerance."""
    body = []
    for row in over_graphs(rows):
        found = [row[f"{kind}_val"] for kind in PATHS]
        if any(found):
            near = ", ".join(str(sum(value <= TOLERANCE for value in values)) for values in found)
            body.append([row["graph"], row["backbone"], *map(spread, found), near, str(len(found[-1]))])
    return markdown(["graph", "model", *PATHS, "within .1", "seeds"], body, 2)
