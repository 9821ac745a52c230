"""Lists of pairs, triples, nodes and cells, and the attributes that go with their entries."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gunlearn.requests.list_names import beside_the_edges, lists_absent_pairs


@dataclass(frozen=True)
class NamedList:
    """An attribute that lists pairs of nodes (`[2, k]` or `[k, 2]`), triples (`[3, k]`, `[k, 3]`), nodes or cells.

    Attributes:
        name: of the attribute.
        ids: `[2, k]`, `[3, k]` or `[4, k]`, `[1, k]` for nodes, `[m, k]` for cells of up to `m` nodes.
        dim: the one that runs along the list.
        partners: attributes with an entry per entry of the list, such as `edge_label` of `edge_label_index`.
        perhaps: attributes of this length that may belong to this list or to another one.
        sure: the name says that these are pairs or nodes.
        cells: these are faces, triangles or other cells of nodes.
        hyperedge: of each entry, where these are the nodes of hyperedges.
    """

    name: str
    ids: Tensor
    dim: int
    partners: tuple[str, ...] = ()
    perhaps: tuple[str, ...] = ()
    sure: bool = True
    cells: bool = False
    hyperedge: Tensor | None = None


def with_partners(
    values: Mapping[str, Any], sizes: Collection[int], per_edge: Collection[str], lists: list[NamedList], by_size: bool
) -> list[NamedList]:
    """Give each list the attributes that go with it: by name, else (`by_size`) by a length that no other thing has."""
    named = {name for one in lists for name in (one.name, *one.partners)}
    rest = {name: size for name in values if name not in ("edge_index", *named) and (size := _length(values[name]))}
    owner: dict[str, NamedList] = {}
    for one in sorted(lists, key=lambda one: -len(stem_of(one.name))):  # the longest name first
        stem, size = stem_of(one.name), one.ids.size(1)
        names = [n for n, k in rest.items() if k == size and n.startswith(stem) and n not in owner]
        owner |= {n: one for n in names if n not in per_edge or "label" in stem}
    perhaps: dict[str, list[str]] = {}
    for name, size in rest.items() if by_size else ():
        if name in owner or name in per_edge or size < 2 or size in sizes:
            continue
        same = [one for one in lists if one.ids.size(1) == size]
        if not sizes:  # in a dict, what belongs to edges or to pairs that are none belongs to the edges
            same = [one for one in same if not lists_absent_pairs(one.name)] or same
        if len(same) == 1:
            owner[name] = same[0]
        for one in same[: len(same) * (len(same) > 1)]:
            perhaps.setdefault(one.name, []).append(name)
    return [
        replace(
            one,
            partners=(*one.partners, *(n for n, o in owner.items() if o is one)),
            perhaps=tuple(perhaps.get(one.name, ())),
        )
        for one in lists
    ]


def runs_along_a_list(name: str, size: int, lists: list[NamedList]) -> bool:
    """Return whether an attribute as long as `edge_index` belongs by its name to a list of other edges, as long too."""
    for one in lists:
        stem = stem_of(one.name)
        apart = "label" in stem or (beside_the_edges(name) and not name.endswith("mask"))
        if apart and name.startswith(stem) and one.ids.size(1) == size:
            return True
    return False


def _length(value: Any) -> int | None:
    if isinstance(value, (Tensor, np.ndarray)):
        return None if not value.shape or (isinstance(value, Tensor) and value.layout != torch.strided) else len(value)
    return len(value) if isinstance(value, (list, tuple)) else None


def stem_of(name: str) -> str:
    """Return what an attribute of a list's entries begins with: `pos_edge_label` for `pos_edge_label_index`."""
    return re.sub(r"(_?(index|indices|idx)|s)$", "", name) or name
