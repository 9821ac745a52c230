"""What `between.py` found: tables, correlations with intervals, predictions, and the pictures."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from experiments.common import markdown

Row = dict[str, Any]
TOLERANCE = 0.1
#: What the barrier to retraining may predict of an unlearned model, and in which words.
PREDICTED = {
    "far": "distance to retraining (JS forget, floors)",
    "relearn_steps": "steps of relearning",
    "attack": "attack (MIA accuracy; of links AUC), distance from one half",
}


def of(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """Rows with these values."""
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def spread(values: Iterable[float | None], digits: int = 2) -> str:
    """Median, smallest and largest of the known values."""
    known = sorted(v for v in values if v is not None)
    if not known:
        return ""
    return f"{median(known):.{digits}f} ({known[0]:.{digits}f}, {known[-1]:.{digits}f})"


def to_retraining(rows: list[Row]) -> str:
    """Barriers from each model to retrained ones, by problem: medians over graphs, models and seeds."""
    head = ["problem", "model", "line, same start", "line, other start", "aligned", "curve", "of lines within .1", "n"]
    body = []
    for problem in dict.fromkeys(row["problem"] for row in rows):
        own = of(rows, problem=problem)
        for name in dict.fromkeys(row["first"] for row in of(own, kind="aligned")):
            same = [row["barrier_retain"] for row in of(own, kind="line", first=name, second="same start")]
            other = [row["barrier_retain"] for row in of(own, kind="line", first=name, second="retrain")]
            more = [
                [row["barrier_retain"] for row in of(own, kind=k, first=name, second="retrain")]
                for k in ("aligned", "curve")
            ]
            near = f"{sum(v <= TOLERANCE for v in same)}, {sum(v <= TOLERANCE for v in other)}"
            body.append([problem, name, spread(same), spread(other), *map(spread, more), near, str(len(same))])
    return markdown(head, body, 2)


def heat(rows: list[Row], problem: str) -> tuple[list[str], np.ndarray]:
    """Median barrier of the line between every two models of the map, `[num_models, num_models]`."""
    lines = of(rows, kind="line", problem=problem)
    names = list(dict.fromkeys([row["first"] for row in lines] + [row["second"] for row in lines]))
    found = np.full((len(names), len(names)), np.nan)
    for i, first in enumerate(names):
        for j, second in enumerate(names):
            values = [row["barrier_retain"] for row in of(lines, first=first, second=second)]
            if values:
                found[i, j] = found[j, i] = median(values)
    return names, found


def heat_table(rows: list[Row], problem: str) -> str:
    """The same as text."""
    names, found = heat(rows, problem)
    body = [
        [name, *("" if math.isnan(v) else f"{v:.2f}" for v in line)] for name, line in zip(names, found, strict=True)
    ]
    return markdown(["", *names], body)


def condition_table(rows: list[Row]) -> str:
    """Barriers under the conditions of the paper, and of the same method elsewhere."""
    body = []
    for problem in dict.fromkeys(row["problem"] for row in rows):
        own = of(rows, kind="condition", problem=problem)
        for key in dict.fromkeys((row["condition"], row["first"], row["second"]) for row in own):
            found = of(own, condition=key[0], first=key[1], second=key[2])
            both = [[row[f"barrier_{part}"] for row in found] for part in ("retain", "forget")]
            near = sum(all(v is None or v <= TOLERANCE for v in pair) for pair in zip(*both, strict=True))
            body.append([problem, key[0], f"{key[1]}, {key[2]}", *map(spread, both), f"{near} of {len(found)}"])
    return markdown(["problem", "condition", "pair", "barrier, retained", "barrier, forgotten", "connected"], body, 3)


def joined(rows: list[Row]) -> list[Row]:
    """For each unlearned model its barriers to retraining and what they may predict."""
    found = []
    for row in of(rows, kind="model"):
        where = {key: row[key] for key in ("problem", "graph", "backbone", "seed")}
        pairs = of(rows, **where, first=row["model"])
        barriers = {
            "same start": of(pairs, kind="line", second="same start"),
            "other start": of(pairs, kind="line", second="retrain"),
            "aligned": of(pairs, kind="aligned", second="retrain"),
        }
        if not all(barriers.values()) or row["model"] == "original":
            continue
        attack = row.get("mia_auc") if row["mia_acc"] is None else row["mia_acc"]
        floor, distance = row.get("js_floor_forget"), row.get("js_forget")
        found.append(
            {
                **where,
                "model": row["model"],
                **{name: pair[0]["barrier_retain"] for name, pair in barriers.items()},
                "far": distance / floor if floor and distance is not None else None,
                "relearn_steps": row["relearn_steps"],
                "attack": None if attack is None else abs(attack - 0.5),
            }
        )
    return found


def by_graph(rows: list[Row], x: str, y: str) -> dict[tuple[str, str], list[float]]:
    """Rank correlations by problem and graph, one of each case (model, seed) that can tell.

    Between cases barriers differ for other reasons.
    """
    cases: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row[y] is not None and row[x] is not None:
            cases[(row["problem"], row["graph"], row["backbone"], row["seed"])].append(row)
    found: dict[tuple[str, str], list[float]] = {(row["problem"], row["graph"]): [] for row in rows}
    for (problem, graph, *_), members in cases.items():
        a, b = ([row[name] for row in members] for name in (x, y))
        if len(members) >= 4 and len(set(a)) > 1 and len(set(b)) > 1:
            found[problem, graph].append(float(spearmanr(a, b).statistic))
    return found


def mean_of(found: Iterable[list[float]]) -> float | None:
    """Mean over all cases of all graphs; `None` without any."""
    values = [value for of_graph in found for value in of_graph]
    return mean(values) if values else None


def bootstrap(found: dict[tuple[str, str], list[float]], draws: int = 500) -> tuple[float, float]:
    """A 95 % interval of `mean_of` over graphs, drawn with replacement: cases of one graph are not independent."""
    graphs, random, means = sorted(found), np.random.default_rng(0), []
    for _ in range(draws):
        value = mean_of(found[graphs[k]] for k in random.integers(len(graphs), size=len(graphs)))
        if value is not None:
            means.append(value)
    low, high = np.quantile(means, (0.025, 0.975)) if means else (math.nan, math.nan)
    return float(low), float(high)


def correlations(rows: list[Row]) -> str:
    """Rank correlation of barriers to retraining with what they may predict, and its interval."""
    found, body = joined(rows), []
    for name, words in PREDICTED.items():
        line = [words]
        for barrier in ("same start", "other start", "aligned"):
            of_graphs = by_graph(found, barrier, name)
            value = mean_of(of_graphs.values())
            if value is None:
                line.append("")
                continue
            low, high = bootstrap(of_graphs)
            line.append(f"{value:.2f} ({low:.2f}, {high:.2f})")
        body.append(line)
    return markdown(["", "line, same start", "line, other start", "aligned"], body)


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
    for name, words in (("spectral_gap", "a larger spectral gap, a lower barrier"), ("homophily", "homophily matters")):
        if len(whole) > 3:
            value = spearmanr([g[name] for g in graphs], [median(g["line"]) for g in graphs]).statistic
            body.append([words, f"rank correlation with the line's barrier {value:.2f} over {len(graphs)} points"])
    return markdown(["statement", "measured"], body, 2)


def mean_table(rows: list[Row]) -> str:
    """Relearning of the mean along a line, beside the line's ends and middle."""
    body = []
    for problem in dict.fromkeys(row["problem"] for row in rows):
        own = of(rows, kind="mean", problem=problem)
        for first, second in dict.fromkeys((row["first"], row["second"]) for row in own):
            found = of(own, first=first, second=second)
            columns = {n: [row[f"{n}_relearn_steps"] for row in found] for n in ("first", "second", "middle", "mean")}
            steps = [spread(values, 0) for values in columns.values()]
            ends = zip(columns["first"], columns["second"], columns["mean"], strict=True)
            more = sum(mean > max(first, second) for first, second, mean in ends)
            body.append([problem, f"{first}, {second}", *steps, f"{more} of {len(found)}"])
    head = ["problem", "pair", "first", "second", "middle of the line", "mean along the curve", "slower than both"]
    return markdown(head, body, 2)


def tables(rows: list[Row]) -> dict[str, str]:
    """Every table by name."""
    found = {"to_retraining": to_retraining(rows), "conditions": condition_table(rows)}
    found |= {f"map_{problem}": heat_table(rows, problem) for problem in dict.fromkeys(row["problem"] for row in rows)}
    found |= {"correlations": correlations(rows), "graphs": graph_table(rows), "predictions": predictions(rows)}
    return {**found, "means": mean_table(rows)}


def draw(rows: list[Row], folder: Path, problems: Sequence[str] = ("nodes",)) -> None:
    """Draw the heat map of barriers, and losses along paths from the original to retraining with bands over seeds."""
    import matplotlib.pyplot as plt

    for problem in problems:
        names, found = heat(rows, problem)
        figure, axes = plt.subplots(1, 2, figsize=(13, 4.6), layout="constrained")
        shown = axes[0].imshow(found, cmap="viridis")
        axes[0].set_xticks(range(len(names)), names, rotation=45, ha="right")
        axes[0].set_yticks(range(len(names)), names)
        for (i, j), value in np.ndenumerate(found):
            if not math.isnan(value):
                colour = "black" if value > np.nanmax(found) / 2 else "white"
                axes[0].text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
        figure.colorbar(shown, ax=axes[0], label="barrier of the line, retained loss (nats, median)")
        backbone = rows_of_map[0]["backbone"] if (rows_of_map := of(rows, kind="line", problem=problem)) else ""
        for kind, style in (("line", "--"), ("aligned", ":"), ("curve", "-")):
            pairs = of(rows, kind=kind, problem=problem, first="original", second="retrain", backbone=backbone)
            axes[1].plot([], [], style, color="black", label=kind)
            for k, graph in enumerate(dict.fromkeys(row["graph"] for row in pairs)):
                losses = np.array([row["loss_retain"] for row in of(pairs, graph=graph)])
                ts = np.linspace(0, 1, losses.shape[1])
                label = graph if kind == "curve" else None
                axes[1].plot(ts, np.median(losses, 0), style, color=f"C{k}", label=label)
                axes[1].fill_between(ts, losses.min(0), losses.max(0), color=f"C{k}", alpha=0.15)
        axes[1].set(
            xlabel=f"t, from the original to retraining (other start), {backbone}", ylabel="retained loss (nats)"
        )
        axes[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        figure.savefig(folder / f"between_{problem}.png", dpi=110)
        plt.close(figure)
