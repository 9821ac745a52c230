"""Statements of arXiv 2502.12608 as predictions: a criterion, what was measured with its interval, and a verdict."""

import math
from collections.abc import Callable, Sequence
from statistics import mean, median
from typing import Any

import numpy as np
from scipy.stats import binomtest, spearmanr

from experiments.common import markdown
from experiments.mode_connectivity.between_rows import TOLERANCE, Row, of
from experiments.mode_connectivity.over_graphs import over_graphs

#: What the paper relates barriers to, and what the rows have of it.
RELATED = {
    "spectral_gap": "spectral gap",
    "homophily": "homophily",
    "density": "density",
    "separability": "separability",
}
CITATION = ("Cora", "CiteSeer", "DBLP")
UNTOLD = "cannot be told with {} graphs"


def shares(values: dict[tuple[str, str], float]) -> dict[str, float]:
    """Shares of the variance of `values[graph, backbone]` between graphs and between models; the rest is neither's."""
    return _shares(_complete(values))


def _complete(values: dict[tuple[str, str], float]) -> np.ndarray:
    """Graphs that every model has, `[num_graphs, num_models]`."""
    graphs, kinds = (sorted({key[k] for key in values}) for k in (0, 1))
    graphs = [graph for graph in graphs if all((graph, kind) in values for kind in kinds)]
    return np.array([[values[g, b] for b in kinds] for g in graphs])


def _shares(table: np.ndarray) -> dict[str, float]:
    whole = ((table - table.mean()) ** 2).sum()
    if whole == 0:
        return {"graph": math.nan, "model": math.nan}
    by_graph = table.shape[1] * ((table.mean(1) - table.mean()) ** 2).sum()
    by_kind = len(table) * ((table.mean(0) - table.mean()) ** 2).sum()
    return {"graph": float(by_graph / whole), "model": float(by_kind / whole)}


def share_interval(values: dict[tuple[str, str], float], draws: int = 2000) -> tuple[float, float]:
    """A 95 % interval of the graphs' share less the models', by a bootstrap over graphs."""
    table, random = _complete(values), np.random.default_rng(0)
    drawn = (_shares(table[random.integers(len(table), size=len(table))]) for _ in range(draws))
    known = [found["graph"] - found["model"] for found in drawn if not math.isnan(found["graph"])]
    low, high = np.quantile(known, (0.025, 0.975)) if known else (math.nan, math.nan)
    return float(low), float(high)


def rank_interval(value: float, size: int) -> tuple[float, float]:
    """A 95 % interval of a rank correlation of `size` pairs: Fisher's z with the deviation of Fieller et al. (1957)."""
    if size < 4:
        return -1.0, 1.0
    z, wide = math.atanh(max(-0.999999, min(0.999999, value))), 1.96 * math.sqrt(1.06 / (size - 3))
    return math.tanh(z - wide), math.tanh(z + wide)


def most(graphs: list[Row], kind: str, holds: Callable[[float], bool]) -> dict[str, Any]:
    """On how many graphs and in how many cases the barrier holds; the 95 % interval of the share of graphs."""
    values = [value for graph in graphs for value in graph[kind]]
    names = dict.fromkeys(graph["graph"] for graph in graphs)
    kept = sum(holds(barrier_on(graphs, kind, name)) for name in names)
    found = binomtest(kept, len(names)).proportion_ci(0.95)
    counts = {"graphs": f"{kept} of {len(names)}", "cases": f"{sum(map(holds, values))} of {len(values)}"}
    return {**counts, "low": float(found.low), "high": float(found.high)}


def barrier_on(graphs: list[Row], kind: str, name: str) -> float:
    """The barrier on a graph: the median over seeds, then the mean over models."""
    return mean(median(row[kind]) for row in of(graphs, graph=name))


def of_citation(graphs: list[Row], kind: str) -> tuple[list[float], list[float]]:
    """Barriers of all cases of the citation graphs, and of Coauthor-CS."""
    parts = ([row for row in graphs if row["graph"] in names] for names in (CITATION, ("CS",)))
    citation, cs = ([value for row in part for value in row.get(kind) or []] for part in parts)
    return citation, cs


def smooth(graphs: list[Row]) -> list[str] | None:
    """Whether curves are smooth on citation graphs and not on CS: by the loss that they lower, and by one held out."""
    told = []
    for kind, words in (("curve", "retained"), ("curve_val", "validation")):
        citation, cs = of_citation(graphs, kind)
        if citation and cs:
            told.append(
                f"{words} loss: at most {max(citation):.3f} on citation graphs, {min(cs):.3f} to {max(cs):.3f} on CS"
            )
    if not told:
        return None
    verdict = "cannot be told: the curve lowers that loss, and no other was kept along it"
    citation, cs = of_citation(graphs, "curve_val")
    if citation and cs:
        verdict = "confirmed" if max(citation) <= TOLERANCE < min(cs) else "not seen"
    criterion = f"curve: every case of the citation graphs at most {TOLERANCE}, every one of CS above"
    return ["citation graphs are smooth, Coauthor-CS is not", criterion, "; ".join(told), verdict]


def related(graphs: list[Row], name: str) -> tuple[dict[str, tuple[float, float, float]], int]:
    """Rank correlations of a graph's figure with its barriers, and their intervals; on how many graphs."""
    about = {row["graph"]: row for row in graphs}
    known = [graph for graph in about if about[graph].get(name) is not None]
    found = {}
    for kind in ("line", "aligned"):
        value = float(
            spearmanr([about[g][name] for g in known], [barrier_on(graphs, kind, g) for g in known]).statistic
        )
        found[kind] = (value, *rank_interval(value, len(known)))
    return found, len(known)


def related_row(graphs: list[Row], name: str, words: str) -> list[str]:
    """The same as a line of the table."""
    found, size = related(graphs, name)
    told = ", ".join(f"{kind} {v:.2f} ({low:.2f}, {high:.2f})" for kind, (v, low, high) in found.items())
    clear = [kind for kind, (_, low, high) in found.items() if low > 0 or high < 0]
    verdict = f"related, by the {' and '.join(clear)}" if clear else UNTOLD.format(size)
    return [
        f"the barrier is related to the {words}",
        "rank correlation over graphs: its interval without 0",
        told,
        verdict,
    ]


def predictions(rows: list[Row]) -> str:
    """Every statement; nothing is tuned to them."""
    graphs = over_graphs(rows)
    body: list[Sequence[str]] = []
    if len({graph["graph"] for graph in graphs}) < 4:
        return ""
    size = len({graph["graph"] for graph in graphs})
    criterion = "on more than half of the graphs, 95 % interval: {} {}"
    for words, kind, holds, sign, note in (
        ("the line between independent models fails", "line", lambda v: v > TOLERANCE, "above", ""),
        ("a quadratic curve connects", "curve", lambda v: v <= TOLERANCE, "at most", ", on the loss that it lowers"),
        ("the same on validation nodes", "curve_val", lambda v: v <= TOLERANCE, "at most", ""),
    ):
        if not all(graph[kind] for graph in graphs):
            continue
        found = most(graphs, kind, holds)
        told = "{graphs} graphs (share {low:.2f}, {high:.2f}), {cases} cases".format(**found)
        verdict = f"confirmed{note}" if found["low"] > 0.5 else UNTOLD.format(size)
        verdict = "not seen" if found["high"] < 0.5 else verdict
        body.append([words, criterion.format(sign, TOLERANCE), told, verdict])
    values = {(row["graph"], row["backbone"]): median(row["line"]) for row in graphs}
    if len({row["backbone"] for row in graphs}) > 1:
        parts, (low, high) = shares(values), share_interval(values)
        told = f"{parts['graph']:.2f} and {parts['model']:.2f}, difference ({low:.2f}, {high:.2f})"
        names = " beside ".join(dict.fromkeys(row["backbone"] for row in graphs))
        verdict = f"confirmed, {names}" if low > 0 else UNTOLD.format(size)
        words = "the graph decides more than the architecture"
        body.append([words, "shares of the line's variance: the difference above 0", told, verdict])
    body += [line for line in [smooth(graphs)] if line]
    body += [related_row(graphs, name, words) for name, words in RELATED.items()]
    body.append(
        ["the barrier is bounded by the spectral gap", "", "", "not tested: the bound's constants are not at hand"]
    )
    return markdown(["statement", "criterion", "measured", "verdict"], body, 4)
