"""Labels of nodes: classes that are whole numbers or texts, and what looks like them and is not."""

import warnings

import numpy as np
import torch
from torch import Tensor

from gunlearn.datasets.edge_columns import as_classes
from gunlearn.datasets.text_tables import as_numbers, is_missing
from gunlearn.errors import InvalidInputError

_BETWEEN_LABELS = ("|", ";", ",", "/")
_MANY = 100  # classes from which on a few numbers among them look like years or ids


def read_classes(values: np.ndarray, source: str) -> tuple[Tensor, dict[int, str] | None]:
    """Return a class per node, int64 `[k]` with -1 where it is missing, and the names of classes that are texts.

    Raises:
        InvalidInputError: no label at all, fractions, numbers among texts, several labels in one entry, or numbers that
            `check_classes` refuses.

    Warns:
        UserWarning: entries that may or may not mean "missing".
    """
    missing = is_missing(values)
    if values.dtype.kind in "OU":
        missing |= np.array([isinstance(value, str) and value.strip() == "?" for value in values], dtype=bool)
    if missing.all():
        raise InvalidInputError(f"Expected labels in {source} (got none)")
    there = values[~missing]
    numbers = as_numbers(there)
    if numbers is not None and not np.array_equal(numbers, np.round(numbers)):
        wrong = numbers[numbers != np.round(numbers)][0]
        raise InvalidInputError(
            f"Expected {source} to hold integers or names of classes (got {wrong}); for numbers to predict, set data.y "
            "to them and take the task 'node_regression'"
        )
    if numbers is None:
        _check_texts(there, source)
        _warn_of_unclear(values, missing, source)
    y = torch.full((len(values),), -1, dtype=torch.long)
    y[torch.from_numpy(~missing)], names = as_classes(there.astype(object))
    if names is None:
        check_classes(y[torch.from_numpy(~missing)], source)
    return y, names


def check_classes(y: Tensor, source: str) -> None:
    """Refuse numbers `[k]` that are no classes: below -1, or -1 and 1 alone, where -1 is a class and means "none" here.

    Warns:
        UserWarning: a few large numbers, which need a model of as many outputs.
    """
    distinct = y.unique().tolist()
    if distinct and distinct[0] < -1:
        raise InvalidInputError(f"Expected classes >= 0 in {source}, or -1 where there is none (got {distinct[0]})")
    if distinct == [-1, 1]:
        raise InvalidInputError(
            f"Expected classes 0, 1, ... in {source} (got -1 and 1 alone, where -1 would mean that there is no label); "
            "write 0 in place of -1"
        )
    if distinct and distinct[-1] >= _MANY and 10 * len(distinct) < distinct[-1]:
        warnings.warn(
            f"{source} holds {len(distinct)} distinct numbers up to {distinct[-1]}, which are read as classes: a model "
            f"needs {distinct[-1] + 1} outputs; number them 0, 1, ..., or write names",
            stacklevel=6,
        )


def _check_texts(there: np.ndarray, source: str) -> None:
    texts = [str(value) for value in there]
    distinct = set(texts)
    whole = {text for text in distinct if text.removeprefix("-").isdecimal()}
    if whole and 2 * len(whole) >= len(distinct):
        wrong = min(distinct - whole)
        raise InvalidInputError(
            f"Expected {source} to hold numbers of classes alone, or names (got {wrong!r} among them)"
        )
    for mark in _BETWEEN_LABELS:
        for text in sorted(distinct):
            parts = text.split(mark)
            if len(parts) > 1 and distinct.issuperset(part.strip() for part in parts):
                raise InvalidInputError(
                    f"Expected one label per node in {source} (got {text!r}, whose parts are labels of other nodes); "
                    "for several, set data.y to a matrix of 0 and 1 and take the task 'node_multilabel'"
                )


def _warn_of_unclear(values: np.ndarray, missing: np.ndarray, source: str) -> None:
    """Say how words are read that are a class to some and "missing" to others."""
    for taken, word, how in ((missing, "none", "missing labels"), (~missing, "na", "a class of that name")):
        found = [value for value in values[taken] if isinstance(value, str) and value.strip().lower() == word]
        if found:
            warnings.warn(
                f"{len(found)} labels {found[0]!r} of {source} are read as {how}; leave out a label that is missing, "
                "and give another name to one that is not",
                stacklevel=6,
            )
