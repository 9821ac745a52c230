"""Plots of a comparison, made with matplotlib's objects: no global state, no window."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gunlearn.report.summary import Line

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

# Okabe and Ito's colours for colour-blind readers; black and grey are for retrain and original.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C564B", "#7B5EA7", "#A6A500", "#5B7083")
MARKERS = "osD^vPX<>h"
RETRAIN, ORIGINAL = "#000000", "#8A8A8A"
#: Width of a picture in inches: small enough for its letters to be read on a telephone.
WIDTH = 5.4
_LEGEND_ROW, _SHORT = 0.21, 32  # height of a row of a legend in inches; letters of a name
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
        else:  # from the eleventh line on, colours come back with other markers
            out[id(line)] = COLOURS[k % len(COLOURS)], MARKERS[(k + k // len(COLOURS)) % len(MARKERS)]
            k += 1
    return out


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
    """Put the legend of `axes`, if there is one, below the figure, in two columns where names are short enough."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = 2 if max(map(len, labels)) <= _SHORT else 1
        width, height = figure.get_size_inches()
        figure.set_size_inches(width, height + _LEGEND_ROW * math.ceil(len(handles) / columns))
        figure.legend(handles, labels, loc="outside lower left", fontsize=9, ncols=columns)


def plain_text(text: str) -> str:
    """Escape `$`, which matplotlib reads as the start of a formula."""
    return text.replace("$", r"\$")
