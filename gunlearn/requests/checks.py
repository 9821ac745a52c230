"""Checks that every request makes of its own arguments, before any data are seen."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from gunlearn.errors import EmptyForgetSetError, InvalidRequestError


def the_one_given(request: Any, names: Sequence[str]) -> str:
    """Which of the ways to name things was used; exactly one must be.

    Raises:
        InvalidRequestError: none or several.
    """
    given = [name for name in names if getattr(request, name) is not None]
    if len(given) != 1:
        raise InvalidRequestError(f"Expected exactly one of {', '.join(names)} (got {', '.join(given) or 'none'})")
    return given[0]


def check_seed(seed: Any) -> None:
    """Refuse what is no integer."""
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise InvalidRequestError(f"Expected 'seed' to be an integer (got {seed!r})")


def check_size(ratio: Any, count: Any, noun: str) -> None:
    """Refuse a ratio outside (0, 1), and a count that is no positive integer.

    Raises:
        EmptyForgetSetError: a count of 0.
        InvalidRequestError: any other.
    """
    if ratio is not None and (isinstance(ratio, bool) or not isinstance(ratio, Real) or not 0 < ratio < 1):
        raise InvalidRequestError(f"Expected 0 < ratio < 1 (got {ratio!r})")
    if count is not None and (isinstance(count, bool) or not isinstance(count, Integral) or count < 0):
        raise InvalidRequestError(f"Expected 'count' to be a positive integer (got {count!r})")
    if count == 0:
        raise EmptyForgetSetError(f"Expected at least one {noun} to forget (got count=0)")
