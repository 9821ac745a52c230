"""Cells of several nodes: faces of a mesh, triangles, cliques, walks; and hyperedges."""

from __future__ import annotations

import warnings
from collections.abc import Collection

import torch
from torch import Tensor

from gunlearn.requests.forgotten import Forgotten
from gunlearn.requests.list_names import named_as_cells
from gunlearn.requests.pair_keys import is_among

_LEAST = 0.5  # share of neighbours within cells that are edges, from which uncertain names are read as cells


def cells_along(name: str, ids: Tensor, rows: bool, forgotten: Forgotten, sizes: Collection[int]) -> int | None:
    """Return along which dimension an attribute lists cells; `None` where it does not, or where it is a node's own.

    Args:
        name: of the attribute.
        ids: its integers, `[m, k]` or `[k, m]`, -1 beyond the end of a smaller cell.
        rows: it is a Python list, whose entries are the cells.
        forgotten: what goes, from which graph.
        sizes: lengths that attributes of nodes, edges and graphs have.
    """
    sure = named_as_cells(name)
    if sure is None or ids.dim() != 2 or ids.numel() == 0:
        return None
    able = [0] if rows else [dim for dim in (1, 0) if ids.size(1 - dim) > 2]
    if name.startswith("face") and ids.size(0) in (3, 4):  # PyG's own shape
        able = [1]
    certain = sure and len(able) == 1
    share = {dim: 1.0 if certain else _share_of_edges(ids if dim else ids.t(), forgotten) for dim in able}
    dim = max(able, key=lambda dim: (share[dim], ids.size(dim)), default=None)
    if dim is None or not (sure or share[dim] >= _LEAST):
        return None
    if not sure and not rows and ids.size(dim) in sizes:
        if bool(cells_go(ids if dim else ids.t(), forgotten).any()):
            warnings.warn(
                f"'data.{name}' may list what is forgotten, beside one row per node or edge, and stays; make it anew "
                "from the retained edges",
                stacklevel=2,
            )
        return None
    return dim


def cells_go(ids: Tensor, forgotten: Forgotten) -> Tensor:
    """Return which cells `[m, k]` hold a node that goes, or two neighbours whose edge goes.

    Neighbours are all nodes of at most four, else one node and the next, and the first and each other.
    """
    gone, size = forgotten.ends_go(ids), ids.size(0)
    if not forgotten.columns.numel():
        return gone
    ends = [(i, j) for i in range(size) for j in range(i + 1, size) if size <= 4 or i == 0 or j == i + 1]
    one, other = (ids[[pair[side] for pair in ends]].flatten() for side in (0, 1))
    for pairs in (torch.stack([one, other]), torch.stack([other, one])):
        gone = gone | forgotten.pairs_go(pairs, of_any=True)[0].view(len(ends), -1).any(dim=0)
    return gone


def warn_of_hyperedges(node: Tensor, hyperedge: Tensor, forgotten: Forgotten, label: str) -> None:
    """Warn of hyperedges that join both ends of an edge that goes; entries `[k]` of nodes and of hyperedges."""
    inside = (node >= 0) & (node < forgotten.graph.num_nodes) & (hyperedge >= 0)
    node, hyperedge = node[inside], hyperedge[inside]
    row, col = (end.to(node.device) for end in forgotten.graph.edge_index[:, forgotten.columns])
    if not node.numel() or not row.numel():
        return
    order, count = node.argsort(), torch.bincount(node, minlength=forgotten.graph.num_nodes)
    number = count[row]  # of hyperedges of each edge's first end, which follow each other in `order`
    first = (count.cumsum(0) - count)[row] - (number.cumsum(0) - number)
    entry = order[torch.arange(int(number.sum()), device=node.device) + first.repeat_interleave(number)]
    size = int(hyperedge.max()) + 1
    if bool(is_among(col.repeat_interleave(number) * size + hyperedge[entry], node * size + hyperedge).any()):
        warnings.warn(
            f"'{label}' has hyperedges that join both ends of forgotten edges, and these stay; make it anew if it was "
            "made from edge_index",
            stacklevel=3,
        )


def _share_of_edges(ids: Tensor, forgotten: Forgotten) -> float:
    """Return the share of neighbours in cells `[m, k]` that are edges, in either direction."""
    pairs = torch.stack([ids[:-1].flatten(), ids[1:].flatten()])
    pairs = pairs[:, (pairs >= 0).all(dim=0)]
    return float((forgotten.is_edge(pairs) | forgotten.is_edge(pairs.flip(0))).float().mean()) if pairs.numel() else 0.0
