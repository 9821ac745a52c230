"""Rows of `between.py`: which ones, and their spread in a cell."""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

Row = dict[str, Any]
#: How high a barrier of connected models may be, in nats.
TOLERANCE = 0.1
#: Models that were trained without the forgotten items.
RETRAINED = ("same start", "retrain")


def of(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """Rows with these values."""
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def spread(values: Iterable[float | None], digits: int = 2) -> str:
    """Median, smallest and largest of the known values."""
    known = sorted(v for v in values if v is not None)
    if not known:
        return ""
    return f"{median(known):.{digits}f} ({known[0]:.{digits}f}, {known[-1]:.{digits}f})"


def barrier(losses: Sequence[float]) -> float:
    """The most by which losses at equally spaced points rise above the line between the first and the last."""
    last = len(losses) - 1
    return max(v - losses[0] - k / last * (losses[-1] - losses[0]) for k, v in enumerate(losses))
