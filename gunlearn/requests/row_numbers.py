"""Row numbers of items count anew in what a request leaves; data carry a mark that says so, and no item."""

import warnings
from typing import Any

from torch import Tensor

#: The attribute of data, and of their inputs, that a request has left. It is True: which rows went stands nowhere.
LEFT = "left_by_request"


def mark_left(data: Any) -> Any:
    """Mark what a request left, and return it: a new table or PyG `Data`, and its inputs, which a pair consists of."""
    inputs = data.x if isinstance(data.x, Tensor) else getattr(data.x, "dataset", data.x)
    setattr(inputs, LEFT, True)
    setattr(data, LEFT, True)
    return data


def is_left(data: Any) -> bool:
    """Return whether a request has left these data (a table or PyG `Data`) of larger ones."""
    x = getattr(data, "x", None)
    return any(bool(getattr(where, LEFT, False)) for where in (data, x, getattr(x, "dataset", None)))


def warn_of_numbers(data: Any) -> None:
    """Warn where row numbers name items of data that an earlier request left."""
    if is_left(data):
        warnings.warn(
            "an earlier request left these data, and their items are numbered anew: each number of this request is a "
            "row of what is left, not of the data before. Name items by file (data.item_id), by class or by a mask of "
            "what is left, or give all numbers in one request",
            UserWarning,
            stacklevel=4,
        )
