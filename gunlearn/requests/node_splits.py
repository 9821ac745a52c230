"""Splits of nodes in dicts: `{"train": ids, "valid": ids, "test": ids}`, as OGB has them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gunlearn.requests.entries import select_entries
from gunlearn.requests.forgotten import Forgotten
from gunlearn.requests.list_names import integers

_PARTS = re.compile(
    r"(train|val|valid|validation|dev|test|holdout|unlabell?ed|labell?ed)(ing)?(_?(idx|index|ids?|nodes?))?"
)
_OTHERS = re.compile(r"edge|link|pair|graph|tripl|hyper|col")


def split_without(name: str, parts: Mapping[str, Any], forgotten: Forgotten) -> dict[str, Any] | None:
    """Return the parts of a split of nodes without those that go; `None` where a dict is no such split.

    A split has disjoint lists of nodes under the names of its parts, in a graph that is no batch of graphs.
    """
    ids = {key: read for key, part in parts.items() if (read := _node_ids(part)) is not None}
    if not ids or not all(_PARTS.fullmatch(key) for key in ids) or _OTHERS.search(name):
        return None
    if isinstance(forgotten.graph.data.get("batch"), Tensor):  # these may be graphs
        return None
    every = torch.cat(list(ids.values()))
    if int(every.min()) < 0 or int(every.max()) >= forgotten.graph.num_nodes or every.unique().numel() < every.numel():
        return None
    new = {}
    for key, own in ids.items():
        gone = forgotten.ends_go(own[None])
        new[key] = select_entries(parts[key], ~gone, 0) if bool(gone.any()) else parts[key]
    return new


def _node_ids(value: Any) -> Tensor | None:
    read = integers("node_idx", value)
    return read[0] if read is not None and read[0].dim() == 1 and read[0].numel() else None
