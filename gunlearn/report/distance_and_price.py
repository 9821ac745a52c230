"""How near to retraining a line ended and what it cost, as numbers and in words."""

from gunlearn.metrics.run_cost import Seconds
from gunlearn.report.summary import Line

DISTANCE, FLOOR, PRICE = "js_forget", "js_floor_forget", "seconds"
#: Up to so many noise floors a model is called near to retraining, which is at 1.
NEAR_FLOORS = 2.0


def distance_of(line: Line | None) -> float | None:
    """Return the distance in floors, or in nats where there is no floor."""
    if line is None:
        return None
    return line.mean(DISTANCE) if (floors := floors_of(line)) is None else floors


def floors_of(line: Line | None) -> float | None:
    """Return the distance in noise floors; `None` where it or the floor is not known."""
    return None if line is None else line.floors(DISTANCE, FLOOR)


def price_of(line: Line | None) -> float | None:
    """Return the mean of the seconds that runs took; `None` where they were not measured."""
    return None if line is None else line.mean(PRICE)


def price_share(line: Line, retrain: Line | None) -> float | None:
    """Return the seconds of a line as a share of retraining's; `None` where one of them was not measured."""
    price, whole = price_of(line), price_of(retrain)
    return None if price is None or not whole else price / whole


def is_dear(line: Line, retrain: Line | None) -> bool:
    """Return whether a line took as long as retraining, or longer; false where that is not known."""
    part = price_share(line, retrain)
    return part is not None and part >= 1


def far(line: Line | None) -> str:
    """Return the distance as a number of floors, or in nats where there is no floor."""
    floors, distance = floors_of(line), distance_of(line)
    if distance is None:
        return "-"
    return f"{distance:.2g} nats" if floors is None else _number(floors)


def away(line: Line) -> str:
    """Return the distance with its unit."""
    return far(line) + ("" if floors_of(line) is None else " floors")


def _number(floors: float) -> str:
    return f"{floors:.1f}" if floors < 100 else f"{floors:,.0f}"


def at_floors(floors: float | None, before: str = " (", after: str = ")") -> str:
    """Return a number of floors as an addition to a sentence, nothing where it is not known."""
    return "" if floors is None else f"{before}{_number(floors)} floors{after}"


def seconds_of(line: Line | None) -> str:
    """Return the seconds that a line took, in words."""
    price = price_of(line)
    return "-" if price is None else f"{Seconds().cell(price, None)} s"


def share_words(line: Line, retrain: Line | None) -> str | None:
    """Return the share of retraining's time in words: `"12 % of"`, `"1.6 times"`."""
    part = price_share(line, retrain)
    if part is None:
        return None
    if part >= 1:
        return f"{part:.1f} times" if part < 10 else f"{part:.0f} times"
    return f"{100 * part:.0f} % of" if part >= 0.01 else f"{100 * part:.1g} % of"


def cost_words(line: Line, retrain: Line | None) -> str:
    """Return the price in words: as a share of retraining's time, and of its epochs where both have some."""
    price = share_words(line, retrain)
    if price is None or retrain is None:
        return "" if price_of(line) is None else f", in {seconds_of(line)}"
    own, whole = line.mean("epochs"), retrain.mean("epochs")
    epochs = f"; {own:.0f} epochs of {whole:.0f}" if own and whole else ""
    return f", for {price} retraining's time ({seconds_of(line)} of {seconds_of(retrain)}{epochs})"
