"""Choose entries of a tensor, an array or a list."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor


def select_entries(value: Any, keep: Tensor, dim: int) -> Any:
    """Return the entries of a tensor, array, list, tuple or set where `keep` is true."""
    if isinstance(value, Tensor):
        return value.index_select(dim, keep.nonzero().flatten().to(value.device))
    if isinstance(value, np.ndarray):
        return np.compress(keep.cpu().numpy(), value, axis=dim)
    if isinstance(value, (list, tuple)) and dim == 1:
        return type(value)(select_entries(row, keep, 0) for row in value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return type(value)(entry for entry, kept in zip(value, keep.tolist(), strict=True) if kept)
    return value[keep]
