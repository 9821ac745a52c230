"""Checks of arguments, shared by the functions and the classes."""

from __future__ import annotations

import math
from numbers import Real

from torch import Tensor

from gunlearn.errors import InvalidInputError


def check_same_shape(name: str, current: Tensor, reference: Tensor) -> None:
    """Refuse shapes that differ: broadcasting `[n]` with `[n, 1]` would give n x n values without a word."""
    if current.shape != reference.shape:
        raise InvalidInputError(
            f"Expected '{name}' of one shape, current {tuple(current.shape)} "
            f"(got {tuple(reference.shape)} for the reference)"
        )


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse a value that is not one of `choices`."""
    if value not in choices:
        raise InvalidInputError(f"Expected '{name}' to be one of {', '.join(map(repr, choices))} (got {value!r})")


def check_number(name: str, value: object, *, positive: bool = False, minimum: float = -math.inf) -> None:
    """Refuse what is no finite number, is below `minimum`, or is not positive where it must be."""
    number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < minimum or (positive and value <= 0):
        kind = "positive finite" if positive else "finite" if minimum == -math.inf else f"finite (>= {minimum:g})"
        raise InvalidInputError(f"Expected '{name}' to be a {kind} number (got {value!r})")
