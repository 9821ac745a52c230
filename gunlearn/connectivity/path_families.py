"""Kinds of paths: straight lines, Bezier curves and chains of lines."""

from __future__ import annotations

import math
from typing import Any

from gunlearn.connectivity.weight_paths import WeightPath
from gunlearn.core.checks import check_choice, check_integer


class LinearPath(WeightPath):
    r"""The straight line :math:`(1-t)\theta_1 + t\theta_2`, which has nothing to train."""

    name = "linear"

    def __init__(self, first: Any, second: Any) -> None:
        super().__init__(first, second)

    def coefficients(self, t: float) -> list[float]:
        return [1 - t, t]


class BezierPath(WeightPath):
    r"""A Bezier curve, :math:`w_k(t) = \binom{K-1}{k} t^k (1-t)^{K-1-k}`; one bend makes it quadratic.

    Garipov et al., "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs" (arXiv 1802.10026).
    """

    name = "bezier"

    def __init__(self, first: Any, second: Any, num_bends: int = 1, start: str | Any = "midpoint") -> None:
        check_integer("num_bends", num_bends, minimum=1)
        super().__init__(first, second, num_bends, start)

    def coefficients(self, t: float) -> list[float]:
        degree = self.num_bends + 1
        return [math.comb(degree, k) * t**k * (1 - t) ** (degree - k) for k in range(degree + 1)]


class PolygonalChain(BezierPath):
    r"""Straight lines from point to point, :math:`w_k(t) = \max(0, 1 - |t(K-1) - k|)` (arXiv 1802.10026)."""

    name = "chain"

    def coefficients(self, t: float) -> list[float]:
        degree = self.num_bends + 1
        return [max(0.0, 1 - abs(t * degree - k)) for k in range(degree + 1)]


#: Kinds of paths by name.
WEIGHT_PATHS: dict[str, type[WeightPath]] = {cls.name: cls for cls in (LinearPath, BezierPath, PolygonalChain)}


def make_path(kind: str, first: Any, second: Any, num_bends: int = 1, start: str | Any = "midpoint") -> WeightPath:
    """Return a path by the name of its kind; a straight line has no bends, and takes no `start`."""
    check_choice("path", kind, tuple(WEIGHT_PATHS))
    return LinearPath(first, second) if kind == "linear" else WEIGHT_PATHS[kind](first, second, num_bends, start)
