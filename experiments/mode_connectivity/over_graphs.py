"""Barriers over graphs, and statements of arXiv 2502.12608 beside them."""

import math
from statistics import mean, median

import numpy as np
from scipy.stats import spearmanr

from experiments.common import markdown
from experiments.mode_connectivity.between_rows import TOLERANCE, Row, of, spread


def over_graphs(rows: list[Row]) -> list[Row]:
    """For each graph its figures and the barriers between the original and a model retrained from other weights."""
    found = []
    for about in of(rows, kind="graph"):
        for backbone in dict.fromkeys(row["backbone"] for row in of(rows, problem="nodes", graph=about["graph"])):
            own = of(rows, problem="nodes", graph=about["graph"], backbone=backbone, first="original", second="retrain")
            barriers = {k: [row["barrier_retain"] for row in of(own, kind=k)] for k in ("line", "aligned", "curve")}
            found.append({**about, "backbone": backbone, **barriers})
    return found


def graph_table(rows: list[Row]) -> str:
    """Barriers over graphs, beside homophily, spectral gap and degree."""
    head = ["graph", "model", "homophily", "spectral gap", "mean degree", "line", "aligned", "curve"]
    body = [
        [
            row["graph"], row["backbone"], f"{row['homophily']:.2f}", f"{row['spectral_gap']:.4f}",
            f"{row['mean_degree']:.1f}", spread(row["line"]), spread(row["aligned"]), spread(row["curve"], 3),
        ]
        for row in over_graphs(rows)
    ]  # fmt: skip
    return markdown(head, body, 2)


def shares(values: dict[tuple[str, str], float]) -> dict[str, float]:
    """Shares of the variance of `values[graph, backbone]` between graphs and between models; the rest is neither's."""
    graphs, kinds = (sorted({key[k] for key in values}) for k in (0, 1))
    graphs = [graph for graph in graphs if all((graph, kind) in values for kind in kinds)]
    table = np.array([[values[g, b] for b in kinds] for g in graphs])
    whole = ((table - table.mean()) ** 2).sum()
    if whole == 0:
        return {"graph": math.nan, "model": math.nan}
    by_graph = len(kinds) * ((table.mean(1) - table.mean()) ** 2).sum()
    by_kind = len(graphs) * ((table.mean(0) - table.mean()) ** 2).sum()
    return {"graph": float(by_graph / whole), "model": float(by_kind / whole)}


def predictions(rows: list[Row]) -> str:
    """Statements of arXiv 2502.12608 beside what was measured; nothing is tuned to them."""
    graphs = over_graphs(rows)
    if not graphs:
        return ""
    lines = [v for row in graphs for v in row["line"]]
    curves = [v for row in graphs for v in row["curve"]]
    body = [
        ["the line between independent models fails", f"{sum(v > TOLERANCE for v in lines)} of {len(lines)} above .1"],
        ["a quadratic curve connects", f"{sum(v <= TOLERANCE for v in curves)} of {len(curves)} at most .1"],
    ]
    whole = {g["graph"] for g in graphs} if len({g["backbone"] for g in graphs}) > 1 else set()
    if len(whole) > 1:
        found = shares({(g["graph"], g["backbone"]): median(g["line"]) for g in graphs})
        told = f"{found['graph']:.2f} of the variance between graphs, {found['model']:.2f} between models"
        body.append(["the graph decides more than the architecture", told])
    citation, cs = (
        [v for g in graphs if (g["graph"] == "CS") == is_cs and (is_cs or g["graph"] in ("Cora", "CiteSeer", "DBLP"))
         for v in g["curve"]]
        for is_cs in (False, True)
    )  # fmt: skip
    if cs and citation:
        told = f"curve: largest barrier {max(citation):.3f} on citation graphs, {max(cs):.3f} on CS"
        body.append(["citation graphs are smooth, Coauthor-CS is not", told])
    barriers = {graph: mean(median(g["line"]) for g in of(graphs, graph=graph)) for graph in whole}
    about = {g["graph"]: g for g in graphs}
    for name, words in (("spectral_gap", "a larger spectral gap, a lower barrier"), ("homophily", "homophily matters")):
        if len(whole) > 3:
            value = spearmanr([about[graph][name] for graph in barriers], list(barriers.values())).statistic
            body.append([words, f"rank correlation with the line's barrier {value:.2f} over {len(whole)} graphs"])
    return markdown(["statement", "measured"], body, 2)
