"""Numbers that a run is called with, checked before anything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gunlearn.core.checks import check_number
from gunlearn.errors import InvalidInputError

WHOLE = ("batch_size", "figure_rows", "per_device_train_batch_size")
IN_TRAINING = ("learning_rate", "num_train_epochs", "per_device_train_batch_size")


def check_numbers(training: Mapping[str, Any], **given: float | None) -> None:
    """Refuse numbers that no run can have.

    Args:
        training: arguments for `TrainingArguments`, which go before those below.
        given: `lr`, `epochs`, `batch_size`: positive; `figure_rows`: not negative. `None` is let be.

    Raises:
        InvalidInputError: no such number, or a fraction where a whole one is due.
    """
    for name, value in (given | {name: training[name] for name in IN_TRAINING if name in training}).items():
        if value is not None:
            check_number(name, value, positive=name != "figure_rows", minimum=0.0)
            if name in WHOLE and value != int(value):
                raise InvalidInputError(f"Expected {name!r} to be a whole number (got {value!r})")


def plain(value: Any) -> Any:
    """Numbers of numpy as numbers, all else as it is."""
    return value.item() if isinstance(value, np.generic) else value
