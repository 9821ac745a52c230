"""Lists of positions of edges, the columns of `edge_index`: they are counted anew once columns are gone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gunlearn.requests.entries import select_entries
from gunlearn.requests.list_names import integers, lists_edge_positions

if TYPE_CHECKING:
    from collections.abc import Mapping


def position_lists(values: Mapping[str, Any], num_columns: int, others: set[str]) -> dict[str, Tensor]:
    """Return the attributes that list columns of `edge_index`, by name; `others` are known to be something else."""
    found = {}
    for name in sorted(values):
        read = None if name in others else integers(name, values[name])
        if read is not None and lists_edge_positions(name, read[0], num_columns):
            found[name] = read[0]
    return found


def points_back(value: Any, edge_index: Tensor) -> Tensor | None:
    """Return positions `[E]` of the opposite direction of each edge, where an attribute holds just these."""
    if not isinstance(value, (Tensor, np.ndarray)) or value.ndim != 1 or len(value) != edge_index.size(1):
        return None
    read = integers("", value)
    if read is None or not len(value) or int(read[0].min()) < 0 or int(read[0].max()) >= len(value):
        return None
    ids = read[0].to(edge_index.device)
    return ids if torch.equal(edge_index[:, ids], edge_index.flip(0)) else None


def renumbered(value: Any, ids: Tensor, kept_columns: Tensor, gone: int | None = None) -> tuple[Any, Tensor]:
    """Return positions `[k]` among the columns that stay (`[E]`), and which stay `[k]`; `gone` stands for the others.

    Without `gone`, positions of columns that go are left out.
    """
    ids = ids.to(kept_columns.device)
    kept = kept_columns[ids]
    new = (kept_columns.cumsum(0) - 1)[ids]
    if gone is not None:
        new, kept = new.masked_fill(~kept, gone), torch.ones_like(kept)
    if isinstance(value, Tensor):
        return new[kept].to(value), kept
    if isinstance(value, np.ndarray):
        return new[kept].cpu().numpy().astype(value.dtype), kept
    return type(value)(select_entries(new.tolist(), kept, 0)), kept


def unclear_positions(values: Mapping[str, Any], num_columns: int, others: set[str]) -> list[str]:
    """Return the names of integers that may be positions of edges, though their name does not say so."""
    found = []
    for name in sorted(set(values) - others):
        read = integers(name, values[name]) if isinstance(values[name], (Tensor, np.ndarray)) else None
        if read is not None and lists_edge_positions(name, read[0], num_columns) is None:
            found.append(name)
    return found


def is_changed(value: Any, new: Any) -> bool:
    """Return whether renumbered positions differ from those before."""
    if isinstance(value, Tensor):
        return not torch.equal(value, new)
    return not np.array_equal(np.array(list(value)), np.array(list(new)))
