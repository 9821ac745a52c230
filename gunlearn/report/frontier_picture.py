"""The picture of a bench: forgotten probability against gain and against retained probability."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gunlearn.bench.llm.frontier import non_dominated
from gunlearn.report.frontier_table import by_method, compared_models
from gunlearn.report.plots import COLOURS, MARKERS, ORIGINAL, RETRAIN, STYLE, WIDTH, add_legend, new_figure, plain_text

_PANELS = {"gain": "alignment gain", "retain_prob": "retained probability"}
_LEAST = 1e-4  # lower probabilities stand there
_WORST = -1.0  # and lower gains there


def frontier_plot(rows: Sequence[Mapping[str, Any]], seed: int = 0) -> Figure:
    """Draw each method's frontier as a line, its other settings as faint dots, the retrained models and their floor.

    Figures are of the half on which nothing was chosen. Gains below -1 stand at -1, probabilities below 1e-4 there.

    Args:
        rows: what `run_text_bench` returned.
        seed: of the halves.
    """
    ends = compared_models(rows, seed)
    panels = [name for name in _PANELS if any(figures.get(name) is not None for figures in ends.values())]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(WIDTH, 3.0 * len(panels))
        for axes, name in zip(figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0], panels, strict=True):
            for number, (method, settings) in enumerate(by_method(rows, seed).items()):
                colour = COLOURS[number % len(COLOURS)]
                marker = MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]
                axes.plot(*_places([s.reported for s in settings], name), "o", ms=2.5, color=colour, alpha=0.35)
                best = [s.reported for s in non_dominated(settings)]
                axes.plot(*_places(best, name), marker, ls="-", lw=1.1, ms=5, color=colour, label=plain_text(method))
            _ends(axes, ends, name)
            axes.set(xscale="log", ylabel=_PANELS[name])
        axes.set_xlabel("probability of forgotten answers")
        add_legend(figure, axes)
    return figure


def save_frontier(rows: Sequence[Mapping[str, Any]], path: str | Path, seed: int = 0) -> Path:
    """Write the picture to a file and return its path."""
    with matplotlib.rc_context(STYLE):
        frontier_plot(rows, seed).savefig(path, dpi=150)
    return Path(path)


def _places(figures: Sequence[Mapping[str, float | None]], name: str) -> tuple[list[float], list[float]]:
    """Return both coordinates of the figures that have them."""
    known = [(f["forget_prob"], f[name]) for f in figures if f.get(name) is not None]
    return [max(x or 0.0, _LEAST) for x, _ in known], [max(y or 0.0, _WORST) for _, y in known]


def _ends(axes: Axes, ends: Mapping[str, Mapping[str, float | None]], name: str) -> None:
    """Draw the original and the retrained models, and the mean of several, which no method can be asked to beat."""
    retrained = [figures for model, figures in ends.items() if model.startswith("retrained")]
    axes.plot(*_places([ends["original"]], name), "d", ms=8, color=ORIGINAL, label="original")
    if retrained:
        axes.plot(*_places(retrained, name), "*", ms=11, color=RETRAIN, label="retrained")
        levels = [level for f in retrained if (level := f.get(name)) is not None]
        if len(levels) > 1:
            mean, words = sum(levels) / len(levels), f"floor: {len(levels)} retrainings"
            axes.axhline(mean, color=RETRAIN, lw=1, ls="--", label=words)
