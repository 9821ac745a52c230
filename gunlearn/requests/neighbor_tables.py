"""Lists of each node's neighbours: tables `[num_nodes, k]`, padded, and Python lists of `num_nodes` lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from gunlearn.requests.entries import select_entries
from gunlearn.requests.forgotten import Forgotten
from gunlearn.requests.list_names import integers


def neighbors_without(name: str, value: Any, forgotten: Forgotten) -> Any:
    """Return lists of neighbours without what is forgotten; `None` where a value is no such list for certain.

    It is one if all entries are neighbours of their row's node, but for padding: -1 or `num_nodes`, of which a table
    has some (else nothing could take the place of what goes).
    """
    size = forgotten.graph.num_nodes
    if isinstance(value, (list, tuple)):
        return _of_lists(value, forgotten) if len(value) == size else None
    read = integers(name, value)
    if read is None or read[0].dim() != 2 or read[0].size(0) != size or read[0].size(1) < 2:
        return None
    ids = read[0]
    inside = (ids >= 0) & (ids < size)
    pads = ids[~inside].unique()
    if pads.numel() != 1 or int(pads) not in (-1, size) or not bool(inside.any()):
        return None
    row = torch.arange(size, device=ids.device)[:, None].expand_as(ids)
    gone = torch.zeros_like(inside)
    found = _that_go(torch.stack([row[inside], ids[inside]]), forgotten)
    if found is None:
        return None
    gone[inside] = found
    if not bool(gone.any()):
        return value
    new = ids.masked_fill(gone, int(pads))
    new = new.gather(1, (new == int(pads)).to(torch.uint8).argsort(dim=1, stable=True))  # padding stays behind
    return new.to(value) if isinstance(value, Tensor) else new.cpu().numpy().astype(value.dtype)


def _of_lists(value: Any, forgotten: Forgotten) -> Any:
    if not isinstance(value[0], (list, tuple, set, frozenset, Tensor, np.ndarray)):
        return None
    lists = [part.tolist() if isinstance(part, (Tensor, np.ndarray)) and part.ndim == 1 else part for part in value]
    if not all(isinstance(part, (list, tuple, set, frozenset)) for part in lists):
        return None
    flat = [entry for part in lists for entry in part]
    if not flat or not all(isinstance(entry, (int, np.integer)) and not isinstance(entry, bool) for entry in flat):
        return None
    sizes = torch.tensor([len(part) for part in lists])
    found = _that_go(torch.stack([torch.arange(len(lists)).repeat_interleave(sizes), torch.tensor(flat)]), forgotten)
    if found is None or not bool(found.any()):
        return None if found is None else value
    kept = (~found).cpu().split(sizes.tolist())
    return type(value)(select_entries(part, keep, 0) for part, keep in zip(value, kept, strict=True))


def _that_go(pairs: Tensor, forgotten: Forgotten) -> Tensor | None:
    """Return which pairs `[2, k]` go, `None` where not all are edges."""
    for ends in (pairs, pairs.flip(0)):
        if bool(forgotten.is_edge(ends).all()):
            return (forgotten.pairs_go(ends)[0] | forgotten.ends_go(ends)).to(pairs.device)
    return None
