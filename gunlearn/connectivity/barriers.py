"""Barriers and integrals of values along a path."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from gunlearn.errors import InvalidInputError


def barrier(ts: Sequence[float], values: Sequence[float | None]) -> float | None:
    r"""Return :math:`\max_t [v(t) - ((1-t) v(0) + t v(1))]`, at least 0; `None` where a value is missing.

    Args:
        ts: points in [0, 1], the ends included.
        values: what must not rise between the ends, one for each point.

    Raises:
        InvalidInputError: other points, another number of values, or one that is not finite.

    Example:
        >>> barrier([0, 0.5, 1], [1.0, 4.0, 2.0])
        2.5
    """
    _check_values(ts, values)
    if list(ts)[:1] != [0] or list(ts)[-1:] != [1] or any(a >= b for a, b in pairwise(ts)):
        raise InvalidInputError(f"Expected ascending points from 0 to 1, both included (got {list(ts)[:5]})")
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    first, last = known[0], known[-1]
    return max(value - ((1 - t) * first + t * last) for t, value in zip(ts, known, strict=True))


def path_summary(values: Sequence[float | None], arc: Sequence[float]) -> dict[str, float] | None:
    r"""Return a figure's `first`, `last`, `min`, `max`, `mean` over the points, and its `integral` by arc length.

    .. math:: \frac{\sum_i \tfrac12 (v_{i-1} + v_i)\, \Delta_i}{\sum_i \Delta_i}

    with :math:`\Delta_i` the distance between neighbouring points (Garipov et al.'s `eval_curve.py`). On a path of
    length 0 the integral is the mean.

    Args:
        values: one for each point; `None` anywhere gives `None`.
        arc: length of the path up to each point.

    Raises:
        InvalidInputError: another number of lengths, or one that is not finite.

    Example:
        >>> path_summary([0.0, 1.0, 1.0], [0.0, 1.0, 4.0])["integral"]
        0.875
    """
    _check_values(arc, values)
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    steps = [b - a for a, b in pairwise(arc)]
    total, mean = math.fsum(steps), math.fsum(known) / len(known)
    areas = (0.5 * (a + b) * step for (a, b), step in zip(pairwise(known), steps, strict=True))
    return {
        "first": known[0],
        "last": known[-1],
        "min": min(known),
        "max": max(known),
        "mean": mean,
        "integral": math.fsum(areas) / total if total else mean,
    }


def _check_values(points: Sequence[float], values: Sequence[float | None]) -> None:
    if len(points) != len(values):
        raise InvalidInputError(f"Expected a value for each of {len(points)} points (got {len(values)})")
    if not all(value is None or math.isfinite(value) for value in values):
        raise InvalidInputError("Expected finite values along a path; None stands for one that is not known")
