"""Lists of positions of edges, the columns of `edge_index`: they are counted anew once columns are gone."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gunlearn.requests.entries import select_entries
from gunlearn.requests.list_names import integers, lists_edge_positions

if TYPE_CHECKING:
    from collections.abc import Mapping


_REVERSE = re.compile(r"(^|_)(rev(erse[ds]?)?|opp(osite)?|twins?|back(ward)?|inv(erse)?|counterpart)(_|$)")
_ORDER = re.compile(r"(^|_)edges?_?(order|perm(utation)?|sort(ed)?)(_|$)")
_OWN_NUMBERS = re.compile(r"(^|_)(e?_?ids?|edge_ids?|time\w*|rank\w*|weights?|year|date)(_|$)")


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


def edge_pointers(name: str, value: Any, edge_index: Tensor, kept_columns: Tensor) -> Any:
    """Return an attribute of the edges `[E]` whose values are positions of edges without those that go, else `None`.

    Pointers to the opposite edge (`rev`, `reverse_id`) are counted anew, -1 for an edge that goes; so is an order of
    the edges (`edge_order`), which loses the edges that go.

    Warns:
        UserWarning: integers that may be positions, though their name does not say so.
    """
    gone, size = ~kept_columns, edge_index.size(1)
    read = integers("", value) if isinstance(value, (Tensor, np.ndarray)) and value.ndim == 1 else None
    if read is None or size < 3 or int(read[0].min()) < -1 or int(read[0].max()) >= size:
        return None
    ids = read[0].to(edge_index.device)
    there = ids[ids >= 0]
    apart, reverse = there.unique().numel() == there.numel(), bool(_REVERSE.search(name))
    if points_back(value, edge_index) is not None or (reverse and apart):
        new = (kept_columns.cumsum(0) - 1)[ids.clamp(min=0)].masked_fill((ids < 0) | gone[ids.clamp(min=0)], -1)
        new = new[kept_columns]
        return new.to(value) if isinstance(value, Tensor) else new.cpu().numpy().astype(value.dtype)
    if torch.equal(ids, torch.arange(size, device=ids.device)) or (_OWN_NUMBERS.search(name) and not reverse):
        return None
    whole = apart and there.numel() == size
    if whole and _ORDER.search(name):
        return renumbered(value, ids, kept_columns)[0]
    if bool(gone.any()) and (whole or (reverse and 2 * int(ids.max()) >= size)):
        warnings.warn(
            f"'data.{name}' may hold positions of edges, whose numbers change when edges go, and is not counted anew; "
            "name it 'rev_...' if it points to the opposite edge, 'edge_order' if it orders the edges, or make it anew",
            stacklevel=4,
        )
    return None


def renumbered(value: Any, ids: Tensor, kept_columns: Tensor) -> tuple[Any, Tensor]:
    """Return positions `[k]` among the columns that stay (`[E]`), and which of them do, `[k]`."""
    ids = ids.to(kept_columns.device)
    kept = kept_columns[ids]
    new = (kept_columns.cumsum(0) - 1)[ids]
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
