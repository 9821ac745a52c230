"""Plots of a study of influence estimators."""

from collections.abc import Callable
from functools import partial

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import rankdata

from gunlearn.attribution.study.agreement import recovery
from gunlearn.attribution.study.study import Study
from gunlearn.report.plots import COLOURS, MARKERS, WIDTH, add_legend, draw_all, new_figure, panel_grid, plain_text

_POINTS = 1500  # per panel: more make the file large and show nothing new
_COLUMNS = 2


def estimate_scatter(study: Study, ranks: bool = False) -> Figure | None:
    """Draw one panel per estimate: its scores, or their ranks, against those of the truth."""
    shown = {name: scores.numpy() for name, scores in study.estimates.items()}
    if not shown:
        return None
    truth = study.truth.numpy()
    drawn = np.random.default_rng(0).permutation(truth.size)[:_POINTS]
    figure, panels = panel_grid(len(shown), min(_COLUMNS, len(shown)), WIDTH, 2.3)
    style = _style(study)
    for axes, (name, scores) in zip(panels, shown.items(), strict=True):
        x, y = (rankdata(truth), rankdata(scores)) if ranks else (truth, scores)
        axes.plot(x[drawn], y[drawn], "o", ms=2.5, alpha=0.5, mew=0, color=style[name][0], rasterized=drawn.size > 500)
        axes.set_title(plain_text(name), fontsize=10)
        if not ranks:
            _scale(axes.set_xscale, x)
            _scale(axes.set_yscale, y)
    figure.supxlabel("rank of the truth" if ranks else "truth", fontsize=10)
    figure.supylabel("rank of the estimate" if ranks else "estimate (its own units)", fontsize=10)
    return figure


def recovery_curves(study: Study) -> Figure | None:
    """Draw the share of the most influential items found against the share of items looked at."""
    truth, signed = study.truth.numpy(), study.settings["signed"]
    first = max(1 / truth.size, 0.001)
    shares = np.geomspace(first, 1, 25)
    found = {name: recovery(truth, scores.numpy(), shares, signed) for name, scores in study.estimates.items()}
    curves = {name: np.asarray(curve, dtype=float) for name, curve in found.items() if curve[0] is not None}
    if not curves:
        return None
    figure = new_figure(WIDTH, 3.6)
    axes, style = figure.subplots(), _style(study)
    axes.plot(shares, shares / 2 if signed else shares, ls="--", lw=1, color="#000000", label="chance")
    for name, curve in curves.items():
        colour, marker = style[name]
        axes.plot(shares, curve, color=colour, marker=marker, ms=4, lw=1.4, label=plain_text(name))
    axes.set(xscale="log", ylim=(0, 1.03), xlabel="share of all items looked at, the highest scores first")
    axes.set_ylabel("share of as many most influential found")
    add_legend(figure, axes)
    return figure


def cost_against_quality(study: Study) -> Figure | None:
    """Draw Spearman's correlation with its interval over seconds (log scale)."""
    shown = [row for row in study.rows if row["spearman"] is not None and row["seconds"]]
    if not shown:
        return None
    figure = new_figure(WIDTH, 3.6)
    axes, style = figure.subplots(), _style(study)
    axes.axhline(0, color="#000000", lw=1, ls="--")
    for row in shown:
        colour, marker = style[row["estimator"]]
        low, high = row["spearman_ci"]
        spread = [[max(0.0, row["spearman"] - low)], [max(0.0, high - row["spearman"])]]
        axes.errorbar(
            row["seconds"], row["spearman"], yerr=spread, fmt=marker, color=colour, ms=8, capsize=3,
            markeredgecolor="white", markeredgewidth=0.8, label=plain_text(row["estimator"]),
        )  # fmt: skip
    axes.set(xscale="log", xlabel="seconds (log scale)", ylabel="Spearman correlation with the truth")
    axes.set_ylim(min(-0.1, *(row["spearman_ci"][0] for row in shown)) - 0.05, 1.05)
    add_legend(figure, axes)
    return figure


#: Name, title and drawing function of each plot.
STUDY_PLOTS = (
    ("scatter", "Estimate against truth", estimate_scatter),
    ("ranks", "Rank of the estimate against rank of the truth", partial(estimate_scatter, ranks=True)),
    ("recovery", "Share of the most influential items found", recovery_curves),
    ("cost", "Cost against quality", cost_against_quality),
)


def draw_study(study: Study) -> list[tuple[str, str, Figure]]:
    """Draw the plots that the study has data for, see `draw_all`."""
    return draw_all(STUDY_PLOTS, study)


def _style(study: Study) -> dict[str, tuple[str, str]]:
    return {row["estimator"]: (COLOURS[k % 10], MARKERS[k % 10]) for k, row in enumerate(study.rows)}


def _scale(set_scale: Callable[..., None], values: np.ndarray) -> None:
    """Set a logarithmic scale (symmetric where values are not all positive) for scores that span decades."""
    size = np.abs(values[values != 0])
    if size.size and size.max() > 30 * np.median(size):
        if values.min() > 0:
            set_scale("log")
        else:
            set_scale("symlog", linthresh=float(np.median(size)))
