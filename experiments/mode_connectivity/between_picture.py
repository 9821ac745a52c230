"""The map of barriers between models, and losses along paths to retraining."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

from experiments.mode_connectivity.between_rows import Row, of


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
