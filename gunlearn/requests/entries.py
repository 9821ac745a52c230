"""Choose entries of a tensor, an array or a list."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from gunlearn.core.large_pages import room_for
from gunlearn.core.sorting import places

#: Entries per one that goes from which what lies between them is copied in one piece.
_APART = 256


def select_entries(value: Any, keep: Tensor, dim: int) -> Any:
    """Return the entries of a tensor, array, list, tuple or set where `keep` is true."""
    if isinstance(value, Tensor):
        return entries_without(value, places(~keep), dim)
    if isinstance(value, np.ndarray):
        return np.compress(keep.cpu().numpy(), value, axis=dim)
    if isinstance(value, (list, tuple)) and dim == 1:
        return type(value)(select_entries(row, keep, 0) for row in value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return type(value)(entry for entry, kept in zip(value, keep.tolist(), strict=True) if kept)
    return value[keep]


def entries_without(value: Tensor, gone: Tensor, dim: int) -> Tensor:
    """Return the entries of a tensor but those at some places `[k]`, which are ascending and distinct."""
    size, plain = value.size(dim), value.layout == torch.strided and not value.requires_grad
    if plain and gone.numel() and _APART * gone.numel() <= size:
        return _between(value, gone.tolist(), dim % value.dim())
    keep = torch.ones(size, dtype=torch.bool, device=gone.device).index_fill_(0, gone, False)
    return value.index_select(dim, places(keep).to(value.device))


def _between(value: Tensor, gone: list[int], dim: int) -> Tensor:
    """Return the entries of a tensor without those at some places, ascending."""
    starts, stops = [0, *(place + 1 for place in gone)], [*gone, value.size(dim)]
    pieces = [value.narrow(dim, a, b - a) for a, b in zip(starts, stops, strict=True) if b > a]
    shape = (*value.shape[:dim], value.size(dim) - len(gone), *value.shape[dim + 1 :])
    return torch.cat(pieces, dim=dim, out=room_for(shape, value))
