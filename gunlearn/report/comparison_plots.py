"""The pictures of a comparison: the first one, and two that show how a method got where it ended."""

from collections.abc import Callable, Sequence
from textwrap import fill

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, PercentFormatter

from gunlearn.metrics.problem import headline
from gunlearn.report.plots import RETRAIN, WIDTH, add_legend, draw_all, new_figure, panel_grid, plain_text, style_of
from gunlearn.report.price_plot import price_plot
from gunlearn.report.protocol import forgotten_items, in_words_of
from gunlearn.report.summary import ENDS, Line, Stat


def course(lines: Sequence[Line]) -> Figure | None:
    """Draw both headline figures over the epochs: a thin line per run, their mean, the retrained model's level."""
    figure, style = new_figure(WIDTH, 5.6), style_of(lines)
    panels = figure.subplots(2, 1, sharex=True)
    longest = 1
    for axes, (name, title) in zip(panels, _headline(lines), strict=True):
        for line in lines:
            label, (colour, marker) = plain_text(line.label), style[id(line)]
            if line.method == "retrain" and (level := line.stat(name)) is not None:
                _band(axes.axhline, axes.axhspan, level, label="retrain")
            curves = [[p for p in row.get("curve") or [] if p.get(name) is not None] for row in line.rows]
            runs = [{p["epoch"]: p[name] for p in curve} for curve in curves if curve]
            if not runs:
                continue
            longest = max(longest, *(max(run) for run in runs))
            if len(runs) > 1:
                for run in runs:
                    axes.plot(list(run), list(run.values()), color=colour, lw=0.8, alpha=0.3)
            # The mean covers the epochs that all runs have; a run that stopped early has points of its own.
            epochs = sorted(set.intersection(*(set(run) for run in runs)))
            mean = [sum(run[epoch] for run in runs) / len(runs) for epoch in epochs]
            axes.plot(epochs, mean, color=colour, lw=2, label=label, marker=marker, markevery=[-1], mec="white", ms=8)
        axes.set_xscale("symlog", linthresh=1, linscale=0.4)
        axes.set_title(title, loc="left", fontsize=10)
    panels[-1].set_xlabel("epoch (0: before the first)")
    if not any(line.get_marker() != "None" for line in panels[0].get_lines()):
        return None
    for axes in panels:
        ticks = [t for t in (0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000) if t <= longest]
        axes.set_xticks(ticks, [str(t) for t in ticks])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(0, longest * 1.15)
    add_legend(figure, panels[0])
    return figure


def histograms(lines: Sequence[Line]) -> Figure | None:
    """Draw probabilities of the forgotten items: before, after each method, retrained."""
    shares = {id(line): share for line in lines if (share := _shares(line)) is not None}
    ends = {line.method: shares[id(line)] for line in lines if line.method in ENDS and id(line) in shares}
    shown = [line for line in lines if line.method not in ENDS and id(line) in shares]
    if not shown:
        return None
    figure, panels = panel_grid(len(shown), min(2, len(shown)), WIDTH, 1.75, 0.8)
    style, reference = style_of(lines), max((share.max() for share in ends.values()), default=None)
    for axes, line in zip(panels, shown, strict=True):
        after, colour = shares[id(line)], style[id(line)][0]
        edges = np.linspace(0, 1, after.size + 1)
        if "original" in ends:
            axes.stairs(ends["original"], edges, fill=True, color="#D3D3D3", label="before")
        if "retrain" in ends:
            axes.stairs(ends["retrain"], edges, color=RETRAIN, lw=1.3, label="retrained")
        axes.stairs(after, edges, color=colour, lw=1.8, label="after (in colour)")
        axes.set_title(fill(plain_text(line.label), 28), fontsize=10)
        # One tall bar (everything pushed to 0) must not flatten the other shapes.
        top = 1.12 * (after.max() if reference is None else max(reference, min(after.max(), 2 * reference)))
        axes.set_ylim(0, top)
        if after.max() > top:
            peak = edges[after.argmax()]
            axes.annotate(
                f"up to {after.max():.0%}", (peak, top), xytext=(6 if peak < 0.5 else -6, -12), color=colour,
                textcoords="offset points", fontsize=8, ha="left" if peak < 0.5 else "right",
            )  # fmt: skip
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlim(0, 1)
    figure.supxlabel(f"probability of the own label of {_items(lines)}", fontsize=10)
    figure.supylabel("share of them", fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3)
    return figure


#: Name, title and drawing function of each plot.
PLOTS = (
    ("price", "Distance to retraining against price", price_plot),
    ("course", "Utility and forgetting over the epochs", course),
    ("histograms", "Probabilities of what was forgotten before, after and retrained", histograms),
)


def draw_comparison(lines: Sequence[Line]) -> list[tuple[str, str, Figure]]:
    """Draw the plots that the lines have data for, see `draw_all`."""
    return draw_all(PLOTS, lines)


def _headline(lines: Sequence[Line]) -> list[tuple[str, str]]:
    """Return name and words of the figures of utility and of forgetting of the lines' task."""
    figures, items = headline(next((line.task for line in lines if line.task), None)), _items(lines)
    return [(figure.name, in_words_of(figure.words or figure.heading, items)) for figure in figures]


def _items(lines: Sequence[Line]) -> str:
    return forgotten_items(next((row for line in lines for row in line.rows), {}))


def _band(line: Callable, span: Callable, level: Stat, label: str | None = None) -> None:
    line(level.mean, color=RETRAIN, lw=1, ls="--", label=label, zorder=1)
    if level.std:
        span(level.mean - level.std, level.mean + level.std, color=RETRAIN, alpha=0.08, lw=0, zorder=0)


def _shares(line: Line) -> np.ndarray | None:
    counts = [row["hist_forget"] for row in line.rows if row.get("hist_forget")]
    if not counts:
        return None
    total = np.asarray(counts, dtype=float).sum(axis=0)
    return total / max(total.sum(), 1)
