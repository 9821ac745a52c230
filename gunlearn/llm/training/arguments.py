"""Checks of the numbers that a run is called with."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np

from gunlearn.core.checks import check_number
from gunlearn.errors import InvalidInputError

WHOLE = ("batch_size", "figure_rows", "per_device_train_batch_size")
IN_TRAINING = ("learning_rate", "num_train_epochs", "per_device_train_batch_size")


def check_numbers(training: Mapping[str, Any], **given: float | None) -> None:
    """Refuse numbers that no run can have; `None` stands for a default.

    Args:
        training: arguments for `TrainingArguments`; they take precedence over those below.
        given: `lr`, `epochs`, `batch_size`: positive; `figure_rows`: not negative.
    """
    for name, value in (given | {name: training[name] for name in IN_TRAINING if name in training}).items():
        if value is not None:
            check_number(name, value, positive=name != "figure_rows", minimum=0.0)
            if name in WHOLE and value != int(value):
                raise InvalidInputError(f"Expected {name!r} to be a whole number (got {value!r})")


def check_whole_number(name: str, value: object, minimum: int = 1) -> None:
    """Refuse anything but a whole number of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise InvalidInputError(f"Expected '{name}' to be a whole number of at least {minimum} (got {value!r})")


def plain_number(value: Any) -> Any:
    """Return a number of numpy as a number of Python, anything else unchanged."""
    return value.item() if isinstance(value, np.generic) else value
