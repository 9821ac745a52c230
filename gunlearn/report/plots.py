"""Plots of a comparison, made with matplotlib's objects: no global state, no window."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, PercentFormatter

from gunlearn.metrics.problem import headline
from gunlearn.report.summary import ENDS, Line, Stat

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

# Okabe and Ito's colours for colour-blind readers; black and grey are for retrain and original.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C564B", "#7B5EA7", "#A6A500", "#5B7083")
MARKERS = "osD^vPX<>h"
RETRAIN, ORIGINAL = "#000000", "#8A8A8A"
STYLE: dict[RcKeyType, Any] = {
    "svg.hashsalt": "gunlearn",  # the same figure, the same bytes
    "svg.fonttype": "path",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def style_of(lines: Sequence[Line]) -> dict[int, tuple[str, str]]:
    """Return colour and marker of each line (by its `id`), the same in all plots."""
    out, k = {}, 0
    for line in lines:
        if line.method in ("retrain", "original"):
            out[id(line)] = (RETRAIN, "*") if line.method == "retrain" else (ORIGINAL, "d")
        else:
            out[id(line)] = COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)]
            k += 1
    return out


def headline_of(lines: Sequence[Line]) -> list[tuple[str, str]]:
    """Return name and words of the figures of utility and of forgetting of the lines' task."""
    figures = headline(next((line.task for line in lines if line.task), None))
    return [(figure.name, figure.words or figure.heading) for figure in figures]


def tradeoff(lines: Sequence[Line]) -> Figure | None:
    """Draw utility against forgetting; a band shows one standard deviation around retraining."""
    (utility, utility_words), (forgetting, forgetting_words) = headline_of(lines)
    figure, style = new_figure(7.6, 4.4), style_of(lines)
    axes = figure.subplots()
    for line in lines:
        x, y = line.stat(forgetting), line.stat(utility)
        if x is None or y is None:
            continue
        colour, marker = style[id(line)]
        if line.method == "retrain":
            _band(axes.axvline, axes.axvspan, x)
            _band(axes.axhline, axes.axhspan, y)
        axes.errorbar(
            x.mean, y.mean, xerr=x.std, yerr=y.std, fmt=marker, color=colour, label=plain_text(line.label),
            markersize=13 if marker == "*" else 8, capsize=3, markeredgecolor="white", markeredgewidth=0.8, zorder=3,
        )  # fmt: skip
    axes.set(xlabel=forgetting_words, ylabel=utility_words)
    add_legend(figure, axes)
    return figure if figure.legends else None


def course(lines: Sequence[Line]) -> Figure | None:
    """Draw both headline figures over the epochs: a thin line per run, their mean, the retrained model's level."""
    figure, style = new_figure(9.2, 3.9), style_of(lines)
    panels = figure.subplots(1, 2)
    longest = 1
    for axes, (name, title) in zip(panels, headline_of(lines), strict=True):
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
        axes.set(xlabel="epoch (0: before the first)", title=title)
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
    columns = min(3, len(shown))
    figure, panels = panel_grid(len(shown), columns, 3.2 * columns + 0.4, 2.15, 0.7)
    style, reference = style_of(lines), max((share.max() for share in ends.values()), default=None)
    for axes, line in zip(panels, shown, strict=True):
        after, colour = shares[id(line)], style[id(line)][0]
        edges = np.linspace(0, 1, after.size + 1)
        if "original" in ends:
            axes.stairs(ends["original"], edges, fill=True, color="#D3D3D3", label="before")
        if "retrain" in ends:
            axes.stairs(ends["retrain"], edges, color=RETRAIN, lw=1.3, label="retrained")
        axes.stairs(after, edges, color=colour, lw=1.8, label="after (in colour)")
        axes.set_title(plain_text(line.label), fontsize=10)
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
    figure.supxlabel("probability of the forgotten item", fontsize=10)
    figure.supylabel("share of items", fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3)
    return figure


def run_costs(lines: Sequence[Line]) -> Figure | None:
    """Draw seconds (log scale) and peak memory."""
    shown, style = [line for line in lines if line.method != "original" and line.rows][::-1], style_of(lines)
    if not shown:
        return None
    figure = new_figure(9.2, 0.36 * len(shown) + 1.3)
    panels = figure.subplots(1, 2, sharey=True)
    colours, places = [style[id(line)][0] for line in shown], range(len(shown))
    titles = {"seconds": "seconds (log scale)", "peak_memory_mb": "peak memory of the process, MiB"}
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        means = [None if (found := line.stat(name)) is None else found.mean for line in shown]
        there = [mean for mean in means if mean]
        log = name == "seconds" and bool(there)
        left = min(there) / 3 if log else 0
        bars = axes.barh(places, [0 if m is None else m - left for m in means], 0.66, left, color=colours)
        texts = ["not measured" if m is None else f"{m:.2g}" if log and m < 100 else f"{m:.0f}" for m in means]
        axes.bar_label(bars, texts, padding=4, fontsize=9)
        axes.set(xlabel=title, xscale="log" if log else "linear", ylim=(-0.6, len(shown) - 0.4))
        if there:
            axes.set_xlim(left, max(there) * (6 if log else 1.18))
        axes.set_yticks(places, [plain_text(line.label) for line in shown])
        axes.grid(visible=False, axis="y")
    return figure


#: Name, title and drawing function of each plot.
PLOTS = (
    ("tradeoff", "Utility against forgetting, with the retrained model", tradeoff),
    ("course", "Utility and forgetting over the epochs", course),
    ("histograms", "Probabilities of the forgotten items before, after and retrained", histograms),
    ("cost", "Seconds and peak memory", run_costs),
)


def draw_comparison(lines: Sequence[Line]) -> list[tuple[str, str, Figure]]:
    """Draw the plots that the lines have data for, see `draw_all`."""
    return draw_all(PLOTS, lines)


def draw_all(plots: Iterable[tuple[str, str, Callable]], subject: Any) -> list[tuple[str, str, Figure]]:
    """Draw the plots that the subject has data for; return name, title and figure of each."""
    with matplotlib.rc_context(STYLE):
        drawn = [(name, words, function(subject)) for name, words, function in plots]
    return [(name, words, figure) for name, words, figure in drawn if figure is not None]


def data_uri(figure: Figure) -> str:
    """Return the figure as an SVG in a data URI."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def panel_grid(number: int, columns: int, width: float, height: float, more: float = 0) -> tuple[Figure, list[Axes]]:
    """Return a figure with `number` panels; `width`, `height` of a row and `more` height are in inches."""
    rows = math.ceil(number / columns)
    figure = new_figure(width, height * rows + more)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[number:]:
        axes.set_visible(False)
    return figure, panels[:number]


def add_legend(figure: Figure, axes: Axes) -> None:
    """Put the legend of `axes`, if there is one, to the right of the figure."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right upper", fontsize=9)


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


def plain_text(text: str) -> str:
    """Escape `$`, which matplotlib reads as the start of a formula."""
    return text.replace("$", r"\$")
