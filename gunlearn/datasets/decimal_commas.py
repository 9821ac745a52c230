"""Numbers with a decimal comma, as spreadsheets of many countries write them between semicolons or tabs."""

import re

import numpy as np

from gunlearn.errors import InvalidInputError

_NUMBER = re.compile(r"[+-]?\d*,?\d+(e[+-]?\d+)?", re.IGNORECASE)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")


def with_points(columns: list[np.ndarray], source: str) -> list[np.ndarray]:
    """Return columns of texts with points for commas in those that hold numbers alone, below a first row of any text.

    Raises:
        InvalidInputError: `1,250` and the like alone, which may be 1250 or 1.25.
    """
    return [_with_points(column, source) for column in columns]


def _with_points(column: np.ndarray, source: str) -> np.ndarray:
    first = 0 if _NUMBER.fullmatch(column[0]) else 1  # a name of the column
    marked = [text for text in column[first:] if "," in text]
    if not marked or not all(not text or _NUMBER.fullmatch(text) for text in column[first:]):
        return column
    if all(_THOUSANDS.fullmatch(text) for text in marked):
        raise InvalidInputError(
            f"Expected numbers with a decimal point in {source} (got {marked[0]!r}: a decimal comma, or one between "
            "thousands?)"
        )
    column = column.copy()
    column[first:] = [text.replace(",", ".") for text in column[first:]]
    return column
