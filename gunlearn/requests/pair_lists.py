"""Lists of node pairs, triples and nodes beside `edge_index`, and the attributes that go with their entries."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from gunlearn.requests.cells import cells_along, cells_go, warn_of_hyperedges
from gunlearn.requests.forgotten import Forgotten
from gunlearn.requests.list_names import (
    SPLIT_PAIRS,
    ends_apart,
    integers,
    list_shape,
    lists_absent_pairs,
    lists_hyperedges,
    named_as_rows,
    numbers_other_things,
)
from gunlearn.requests.list_partners import NamedList, stem_of

# Shapes that may be so many pairs or triples in either direction.
_SQUARE = ((2, 2), (3, 3), (4, 4), (3, 4), (4, 3))


def named_lists(
    values: Mapping[str, Any], forgotten: Forgotten, sizes: Collection[int], outer: str = ""
) -> list[NamedList]:
    """Return the lists of pairs, triples and nodes among attributes, without what belongs to their entries.

    Args:
        values: the attributes by name.
        forgotten: what goes, from which graph.
        sizes: lengths that attributes of nodes, edges and graphs have.
        outer: name of the dict that holds the attributes.
    """
    found, size = [], forgotten.graph.num_nodes
    whole = {name: read for name in sorted(values) if (read := integers(outer + name, values[name])) is not None}
    apart = ends_apart([name for name, (ids, _) in whole.items() if ids.dim() == 1])
    for one, other in apart:
        ends = [whole[name][0] for name in (one, other)]
        if ends[0].shape == ends[1].shape and ends[0].numel() not in sizes:
            found.append(NamedList(one, torch.stack(ends), 0, partners=(other,)))
    taken = {name for one in found for name in (one.name, *one.partners)}
    for name, (ids, rows) in whole.items():
        if name in taken:
            continue
        along = cells_along(outer + name, ids, rows, forgotten, sizes)
        if along is not None:
            found.append(NamedList(name, ids if along else ids.t(), along, cells=True))
            continue
        if lists_hyperedges(outer + name, ids):
            found.append(NamedList(name, ids[:1], 1, hyperedge=ids[1]))
            continue
        if _is_part_of_the_edges(outer + name, ids, forgotten):
            found.append(NamedList(name, ids, 1))
            continue
        shape = list_shape(outer + name, ids, size, sizes, rows)
        if shape is not None:
            dim, sure = shape
            if not rows and "index" not in name and tuple(ids.shape) in _SQUARE:
                dim = _direction(ids, dim, forgotten, outer + name)
            found.append(NamedList(name, ids[None] if ids.dim() == 1 else ids.t() if dim == 0 else ids, dim, sure=sure))
    return found


def _is_part_of_the_edges(name: str, ids: Tensor, forgotten: Forgotten) -> bool:
    """Return whether pairs whose name may be that of cells or clusters are edges, such as those of a spanning tree."""
    if not numbers_other_things(name) or "line" in name or "lg" in name or ids.dim() != 2 or ids.size(0) != 2:
        return False
    return bool(forgotten.is_edge(ids).all())


def _direction(ids: Tensor, dim: int, forgotten: Forgotten, name: str) -> int:
    """Return along which dimension so few pairs or triples are listed that their shape does not tell."""
    share = []
    for entries in (ids.t(), ids):
        ends = [entries[[0, 1]]] if len(entries) == 2 else [entries[[0, 1]], entries[[0, 2]]]
        share.append(max(float(forgotten.is_edge(pairs).float().mean()) for pairs in ends))
    if share[0] == share[1]:
        return 0 if ids.size(0) == ids.size(1) and named_as_rows(name) else dim
    return 0 if share[0] > share[1] else 1


def kept_entries(one: NamedList, forgotten: Forgotten, label: str, relation: int | None = None) -> Tensor:
    """Return the entries `[k]` that stay without forgotten edges and nodes; see `Forgotten.pairs_go`.

    Pairs that are listed as absent (`neg_*`) stay unless a node goes: that they are no edges is true now.

    Args:
        one: the list.
        forgotten: what goes.
        label: its name in messages, such as `data.train_pairs`.
        relation: of all pairs, where a name says one.
    """
    ends, absent = one.ids, lists_absent_pairs(label)
    if one.cells:
        return ~cells_go(ends, forgotten)
    if one.hyperedge is not None:
        warn_of_hyperedges(ends[0], one.hyperedge, forgotten, label)
    said: Tensor | int | None = relation
    if one.ids.size(0) > 2:
        found = forgotten.read_triples(one.ids) or (forgotten.reading if one.sure else None)
        if found is None:
            return _of_two_readings(one, forgotten, label, absent)
        ends, said = one.ids[list(found)], forgotten.relation_column(one.ids, found)
    gone, torn = forgotten.ends_go(ends), False
    if ends.size(0) == 2 and not absent:
        pairs, torn = forgotten.pairs_go(ends, said, of_any=one.name in SPLIT_PAIRS)
        gone = gone | pairs
    number = int(gone.sum())
    if torn:
        warnings.warn(
            f"'{label}' may list edges of several relations, and pairs that a forgotten edge of one joins and a "
            "retained edge of another stay: make one list per relation, or triples (head, relation, tail)",
            stacklevel=2,
        )
    if one.perhaps and number:
        warnings.warn(
            f"entries of '{label}' are taken out, and {', '.join(map(repr, one.perhaps))} of the same length "
            f"stay whole; if they belong to it, name them '{stem_of(one.name)}_...'",
            stacklevel=2,
        )
    if not one.sure and number and 2 * int(forgotten.is_edge(ends).sum()) < gone.numel():
        warnings.warn(
            f"'{label}' may list node pairs, {number} of {gone.numel()} of what is forgotten, and stays whole; "
            "give it a name with 'edge' or 'pair' if it does, else another dtype",
            stacklevel=2,
        )
        return torch.ones_like(gone)
    if not one.sure and number:
        warnings.warn(
            f"'{label}' was read as a list of node pairs, and {number} of {gone.numel()} that name "
            "what is forgotten were taken out; give it a name with 'edge' or 'pair' if it is one, else another dtype",
            stacklevel=2,
        )
    return ~gone


def _of_two_readings(one: NamedList, forgotten: Forgotten, label: str, absent: bool) -> Tensor:
    """Return which triples stay where either the second or the third column may be the other end of an edge."""
    gone = []
    for last in (1, 2):
        pairs = one.ids[[0, last]]
        edges = torch.zeros_like(pairs[0], dtype=torch.bool) if absent else forgotten.pairs_go(pairs)[0]
        gone.append(edges | forgotten.ends_go(pairs))
    if one.sure and torch.equal(*gone):
        return ~gone[0]
    if bool((gone[0] | gone[1]).any()):
        warnings.warn(
            f"'{label}' may list what is forgotten, as (head, tail, ...) or (head, relation, tail), and stays whole; "
            "make it anew from the retained edges",
            stacklevel=3,
        )
    return torch.ones_like(gone[0])
