"""Compressed lists of neighbours (CSR and CSC): row pointers `[num_nodes + 1]`, and the neighbours they point to."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gunlearn.requests.entries import select_entries
from gunlearn.requests.forgotten import Forgotten
from gunlearn.requests.list_names import integers

#: What each pointer points into; `row_ptr` is read as `rowptr`.
_POINTERS = {
    "rowptr": ("col", "colind", "col_idx", "indices"),
    "colptr": ("row", "rowind", "row_idx", "indices"),
    "indptr": ("indices", "col", "neighbors", "neighbours", "nbrs"),
    "crow_indices": ("col_indices",),
    "ccol_indices": ("row_indices",),
}
_POINTER = re.compile(r"(?<![a-z])(row_?ptr|col_?ptr|ind_?ptr|crow_indices|ccol_indices)(?![a-z])")
_VALUES = ("value", "values", "val", "vals", "data", "weight", "weights", "edge_weight", "edge_attr", "e_id", "perm")


def compressed_without(values: Mapping[str, Any], forgotten: Forgotten, label: str) -> dict[str, Any]:
    """Return the attributes that are compressed lists, by name, without what is forgotten.

    Args:
        values: the attributes by name.
        forgotten: what goes, from which graph.
        label: what stands before a name in messages, such as `data.`.

    Warns:
        UserWarning: lists that do not hold edges of the graph; they stay as they are.
    """
    found: dict[str, Any] = {}
    for name in values:
        match = _POINTER.search(name)
        if match is None:
            continue
        kind = match[0] if "indices" in match[0] else match[0].replace("_", "")
        named = {part: name[: match.start()] + part + name[match.end() :] for part in (*_POINTERS[kind], *_VALUES)}
        other = next((named[part] for part in _POINTERS[kind] if named[part] in values), None)
        read = None if other is None else _read(values[name], values[other])
        if other is None or read is None or other in found:
            continue
        owner, neighbor = read
        size = neighbor.numel()
        partners = [named[p] for p in _VALUES if named[p] in values and _length(values[named[p]]) == size]
        found |= {name: values[name], other: values[other]} | {p: values[p] for p in partners}
        pairs = torch.stack([owner, neighbor] if kind != "colptr" and kind != "ccol_indices" else [neighbor, owner])
        inside = values[name].shape[0] == forgotten.graph.num_nodes + 1
        if inside and not bool(forgotten.is_edge(pairs).all()):
            pairs = pairs.flip(0)
        if not inside or not bool(forgotten.is_edge(pairs).all()):
            warnings.warn(
                f"'{label}{name}' and '{label}{other}' list neighbours that are no edges of the graph, may hold what "
                "is forgotten, and stay as they are; compute them again from the retained edges",
                stacklevel=3,
            )
            continue
        gone, torn = forgotten.pairs_go(pairs)
        kept = ~(gone | forgotten.ends_go(pairs))
        if torn:
            warnings.warn(
                f"'{label}{name}' may hold edges of several relations, and pairs that a forgotten edge of one joins "
                "and a retained edge of another stay; compute it again from the retained edges",
                stacklevel=3,
            )
        if bool(kept.all()):
            continue
        count = torch.bincount(owner[kept.to(owner.device)], minlength=values[name].shape[0] - 1)
        found[name] = _like(torch.cat([count.new_zeros(1), count.cumsum(0)]), values[name])
        found |= {part: select_entries(values[part], kept, 0) for part in (other, *partners)}
    return found


def _read(pointer: Any, indices: Any) -> tuple[Tensor, Tensor] | None:
    """Return whose each neighbour is, `[k]`, and the neighbours `[k]`, `None` where the one does not fit the other."""
    both = integers("ptr", pointer), integers("ptr", indices)
    if both[0] is None or both[1] is None or both[0][0].dim() != 1 or both[1][0].dim() != 1:
        return None
    start, ids = both[0][0], both[1][0]
    number = start.diff()
    if start.numel() < 2 or int(start[0]) or int(start[-1]) != ids.numel() or bool((number < 0).any()):
        return None
    return torch.arange(number.numel(), device=ids.device).repeat_interleave(number.to(ids.device)), ids


def _length(value: Any) -> int | None:
    strided = isinstance(value, np.ndarray) or (isinstance(value, Tensor) and value.layout == torch.strided)
    return value.shape[0] if strided and value.ndim else None


def _like(new: Tensor, value: Any) -> Any:
    return new.to(value) if isinstance(value, Tensor) else new.cpu().numpy().astype(value.dtype)
