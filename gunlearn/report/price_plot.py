"""The picture of a comparison: distance to retraining against price."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from gunlearn.report.distance_and_price import DISTANCE, FLOOR, PRICE, price_share
from gunlearn.report.plots import ORIGINAL, RETRAIN, WIDTH, add_legend, new_figure, plain_text, style_of
from gunlearn.report.summary import ENDS, Line
from gunlearn.report.table import marks_of
from gunlearn.report.verdict import retrainings


@dataclass(frozen=True)
class Spot:
    """Where a line stands: its price, its distance, and the lowest and highest distance of a run."""

    line: Line
    price: float
    distance: float
    low: float
    high: float


def price_plot(lines: Sequence[Line]) -> Figure | None:
    """Draw JS forget in noise floors against seconds as a share of retraining's, both on log axes.

    Without a floor distances are in nats, without the time of retraining prices in seconds. What costs next to nothing
    (`utu`) stands in a strip at the left edge. `None` where no distance or no price is known.
    """
    places = placed(lines)
    if not any(spot.price for spot in places):
        return None
    floors, shares = _has_floors(lines), _retrain(lines) is not None
    figure = new_figure(WIDTH, 3.9)
    axes, style = figure.subplots(), style_of(lines)
    edge = cheap_below(places)
    axes.set(xscale="log", yscale="log")
    if floors:
        number = retrainings(lines)
        label = f"floor: {number or 'several'} retrainings"
        axes.axhline(1, color=RETRAIN, lw=1.2, ls="--", label=label, zorder=1)
    if shares:
        axes.axvline(1, color=RETRAIN, lw=0.8, ls=":", label="price of retraining", zorder=1)
    before = next((d for line in lines if line.method == "original" and (d := _distance(line, floors))), None)
    if before is not None:
        axes.axhline(before, color=ORIGINAL, lw=1.2, ls="-.", label="original, all data", zorder=1)
    for spot in places:
        colour, marker = style[id(spot.line)]
        x = max(spot.price, edge / 2)
        if spot.high > spot.low:
            axes.plot([x, x], [spot.low, spot.high], color=colour, lw=1.2, zorder=2)
        hollow, label = spot.line.fails, f"{spot.line.label} {marks_of(spot.line)}".rstrip()
        axes.plot(
            x, spot.distance, marker, ms=14 if marker == "*" else 8.5, color=colour, ls="none", zorder=3,
            mfc="white" if hollow else colour, mec=colour if hollow else "white", mew=1.6 if hollow else 0.8,
            label=plain_text(label),
        )  # fmt: skip
    _scale_x(axes, places, edge, shares)
    _scale_y(axes, [p for spot in places for p in (spot.low, spot.high)] + ([before] if before else []), floors)
    add_legend(figure, axes)
    return figure


def price_words(lines: Sequence[Line]) -> str:
    """Return the places of the picture in words, for those who do not see it."""
    floors, shares = _has_floors(lines), _retrain(lines) is not None
    spots = [
        f"{spot.line.label} {spot.distance:.2g} at {f'{spot.price:.2g} times' if shares else f'{spot.price:.2g} s'}"
        for spot in placed(lines)
    ]
    unit, cost = "noise floors" if floors else "nats", "the time of retraining" if shares else "the time it took"
    return f"Distance to retraining (JS forget) in {unit} against {cost}, on log axes: {'; '.join(spots)}."


def placed(lines: Sequence[Line]) -> list[Spot]:
    """Return the lines that have a price and a distance above 0, in their order; `utu` is free where it has none."""
    floors, retrain, found = _has_floors(lines), _retrain(lines), []
    for line in lines:
        distance = _distance(line, floors)
        price = price_share(line, retrain) if retrain is not None else line.mean(PRICE)
        if price is None and line.method == "utu":
            price = 0.0  # evaluations do not time it
        if line.method == "original" or not distance or price is None:
            continue
        runs = [d for row in line.rows if (d := _distance(Line(line.method, line.mode, [row]), floors))]
        found.append(Spot(line, price, distance, min(runs, default=distance), max(runs, default=distance)))
    return found


def cheap_below(places: Sequence[Spot]) -> float:
    """Return the price, 1, 2 or 5 times a power of ten, below which a place is drawn in the strip at the left edge."""
    dear = [spot.price for spot in places if spot.line.method != "utu" and spot.price > 0]
    least = min(dear, default=1.0) / 1.3
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in (5, 2, 1) if step * power <= least * (1 + 1e-9))


def _scale_x(axes: Axes, places: Sequence[Spot], edge: float, shares: bool) -> None:
    most = max([spot.price for spot in places] + [1.0] * shares) * 1.5
    left = edge / 3.2 if any(spot.price < edge for spot in places) else edge
    ticks = _ticks(edge, most)
    words = [f"{100 * t:g} %" if shares else f"{t:g}" for t in ticks]
    if left < edge:
        axes.axvspan(left, edge, color="#EEEEEE", lw=0, zorder=0)
        ticks, words = [edge / 2 * 0.9, *ticks], [f"under\n{words[0]}", *(["", *words[1:]])]
    axes.set_xlim(left, most)
    axes.set_xticks(ticks, words)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(f"price: {'time as a share of retraining' if shares else 'seconds'} (log scale)")


def _scale_y(axes: Axes, values: Sequence[float], floors: bool) -> None:
    low, high = min([*values] + [1.0] * floors) / 1.5, max([*values] + [2.0] * floors) * 1.5
    ticks = _ticks(low, high)
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel(f"distance to retraining (JS forget)\nin {'noise floors' if floors else 'nats'} (log scale)")


def _ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten from `low` to `high`; fewer where there would be too many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    decades = math.log10(high / low)
    steps = (1, 2, 5) if decades < 1.6 else (1, 3) if decades < 2.8 else (1,)
    found = [float(f"{step}e{k}") for k in powers for step in steps]
    return [tick for tick in found if low * (1 - 1e-9) <= tick <= high] or [float(f"{low:.1g}")]


def _retrain(lines: Sequence[Line]) -> Line | None:
    """Return the line of retraining where its time is known."""
    return next((line for line in lines if line.method == "retrain" and line.mean(PRICE)), None)


def _has_floors(lines: Sequence[Line]) -> bool:
    return any(line.floors(DISTANCE, FLOOR) is not None for line in lines if line.method not in ENDS)


def _distance(line: Line, floors: bool) -> float | None:
    return line.floors(DISTANCE, FLOOR) if floors else line.mean(DISTANCE)
