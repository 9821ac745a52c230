"""Lists of pairs inside dicts, lists and tuples that a graph's data holds."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gunlearn.requests.blanks import blanked, has_row_per_node
from gunlearn.requests.compressed import compressed_without
from gunlearn.requests.entries import select_entries
from gunlearn.requests.forgotten import Forgotten
from gunlearn.requests.list_names import integers
from gunlearn.requests.list_partners import NamedList, with_partners
from gunlearn.requests.node_splits import split_without
from gunlearn.requests.pair_lists import kept_entries, named_lists


def is_nested(value: Any) -> bool:
    """Return whether a value is a dict, or a list or tuple of tensors, arrays and dicts."""
    inner = (Tensor, np.ndarray, dict)
    return isinstance(value, dict) or (
        isinstance(value, (list, tuple)) and bool(value) and all(isinstance(v, inner) for v in value)
    )


def nested_without(name: str, value: Any, forgotten: Forgotten, label: str) -> Any:
    """Return a dict, list or tuple without the pairs in it that are forgotten; the same object where it holds none.

    Args:
        name: of the value, which the names of its parts continue.
        value: the container.
        forgotten: what goes.
        label: its name in messages.
    """
    if not isinstance(value, dict):
        parts = {str(i): part for i, part in enumerate(value)}
        new = _dict_without(name, parts, {k: int(k) for k in parts}, forgotten, label)
        return value if new is parts else type(value)(new.values())
    pairs = _pair_keys(value)
    if pairs is not None:
        kept = kept_entries(NamedList(name, pairs, 0), forgotten, label)
        return value if bool(kept.all()) else dict(select_entries(list(value.items()), kept, 0))
    neighbors = _neighbor_lists(value)
    if neighbors is not None and bool(forgotten.is_edge(neighbors).all()):
        return _neighbors_without(name, value, neighbors, forgotten, label)
    parts = {str(key): part for key, part in value.items()}
    if len(parts) < len(value):
        return value
    keys = {str(key): key for key in value}
    new = _dict_without(name, parts, keys, forgotten, label)
    return value if new is parts else {keys[k]: part for k, part in new.items()}


def _dict_without(name: str, parts: dict[str, Any], keys: dict[str, Any], forgotten: Forgotten, label: str) -> dict:
    new, outer = dict(parts), f"{name}_"
    changed = False
    by_type = [k for k in parts if _names_types(keys[k], forgotten)]
    if by_type and any(integers(outer + k, parts[k]) is not None for k in by_type) and forgotten.columns.numel():
        warnings.warn(
            f"'{label}' holds lists by types of nodes, whose ids may be counted within each type, and stays as it "
            "is; make it anew from the retained edges",
            stacklevel=3,
        )
    compressed = compressed_without(parts, forgotten, f"{label}.")
    if any(part is not parts[k] for k, part in compressed.items()):
        new, changed = new | compressed, True
    split = split_without(name, parts, forgotten) or {}
    if any(part is not parts[k] for k, part in split.items()):
        new, changed = new | split, True
    mine = {k: part for k, part in parts.items() if k not in (*by_type, *compressed, *split)}
    lists = with_partners(mine, (), (), named_lists(mine, forgotten, (), outer), True)
    for one in lists:
        kept = kept_entries(one, forgotten, f"{label}[{keys[one.name]!r}]", _relation(keys[one.name], forgotten))
        if not bool(kept.all()):
            changed = True
            new[one.name] = select_entries(parts[one.name], kept, one.dim)
            for partner in one.partners:
                new[partner] = select_entries(parts[partner], kept, 0)
    sizes = forgotten.graph.num_nodes, forgotten.graph.num_columns
    listed = {k for one in lists for k in (one.name, *one.partners)}
    for key, part in mine.items():
        if key in listed:
            continue
        if forgotten.nodes.numel() and has_row_per_node(outer + key, part, *sizes):
            new[key], changed = blanked(key, part, forgotten.nodes), True
        elif is_nested(part):
            new[key] = nested_without(outer + key, part, forgotten, f"{label}[{keys[key]!r}]")
            changed |= new[key] is not part
    return new if changed else parts


def _pair_keys(value: dict) -> Tensor | None:
    """Return the pairs `[2, k]` that the keys of a dict are, `None` for other keys."""
    if not value or not all(
        isinstance(key, tuple) and len(key) == 2 and all(isinstance(k, (int, np.integer)) for k in key) for key in value
    ):
        return None
    return torch.tensor([[int(k) for k in key] for key in value]).t()


def _neighbor_lists(value: dict) -> Tensor | None:
    """Return the pairs `[2, k]` of keys and the integers in their lists, `None` where a dict is not so made."""
    if not value or not all(isinstance(key, (int, np.integer)) for key in value):
        return None
    pairs = []
    for key, part in value.items():
        entries = part.tolist() if isinstance(part, (Tensor, np.ndarray)) and part.ndim == 1 else part
        if not isinstance(entries, (list, tuple, set, frozenset)):
            return None
        if not all(isinstance(entry, (int, np.integer)) and not isinstance(entry, bool) for entry in entries):
            return None
        pairs += [(int(key), int(entry)) for entry in entries]
    return torch.tensor(pairs).t() if pairs else None


def _neighbors_without(name: str, value: dict, pairs: Tensor, forgotten: Forgotten, label: str) -> dict:
    kept = kept_entries(NamedList(name, pairs, 0), forgotten, label)
    if bool(kept.all()):
        return value
    parts = kept.split([len(part) for part in value.values()])
    return {key: select_entries(part, keep, 0) for (key, part), keep in zip(value.items(), parts, strict=True)}


def _names_types(key: Any, forgotten: Forgotten) -> bool:
    """Return whether a key is a type of edges between nodes of types that the graph knows."""
    return isinstance(key, tuple) and len(key) == 3 and forgotten.graph.data.get("node_type") is not None


def _relation(key: Any, forgotten: Forgotten) -> int | None:
    """Return the number of the relation that a key names."""
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        return int(key)
    names = [tuple(name) for name in getattr(forgotten.graph.data, "_edge_type_names", None) or ()]
    if isinstance(key, tuple) and key in names:
        return names.index(key)
    middle = [name[1] for name in names if len(name) == 3]
    return middle.index(key) if middle.count(key) == 1 else None
