"""The types of a graph's nodes: given, or read off a bipartite graph."""

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch_geometric.data import Data

from gunlearn.core.sorting import unique
from gunlearn.errors import InvalidInputError
from gunlearn.requests.pair_keys import pair_key

#: So many independent cycles of even length make a bipartite graph no accident: one in 2^20 sparse random graphs.
SURE = 20
_NEAR = 8


def node_kinds(data: Data, edge_index: Tensor | None = None) -> Tensor | None:
    """Return the type of each node, integers from 0 `[num_nodes]`; `None` for nodes of one type.

    It is `data.node_type` (integers, or a list of names). Without one, a graph whose every edge leads from a lower
    range of ids to a higher one is read as bipartite, where it has so many edges that this is no accident.

    Args:
        data: the graph.
        edge_index: its edges `[2, E]`, those of `data` by default.
    """
    size, value = int(data.num_nodes or 0), data.get("node_type")
    if value is None:
        return two_sides(data.edge_index if edge_index is None else edge_index, size)
    if not isinstance(value, Tensor):
        value = torch.from_numpy(np.unique(np.asarray(value), return_inverse=True)[1].reshape(-1))
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool or value.shape != (size,):
        raise InvalidInputError(
            f"Expected one integer or name per node in 'data.node_type', {size} (got {tuple(value.shape)} of "
            f"{value.dtype})"
        )
    kinds, number = value.unique(return_inverse=True)
    return number if kinds.numel() > 1 else None


def two_sides(edge_index: Tensor, num_nodes: int) -> Tensor | None:
    """Return the side of each node `[num_nodes]` of a bipartite graph whose sides are ranges of ids, else `None`.

    Sides are 0 and 2; nodes between the two ranges, which have no edges, get 1.
    """
    if not edge_index.numel():
        return None
    low, high = edge_index.aminmax(dim=0)
    last, first = int(low.max()), int(high.min())
    # All edges lead from one range to the other: every cycle is even.
    if last >= first or _num_cycles(*_simple(edge_index, num_nodes)) < SURE:
        return None
    node = torch.arange(num_nodes, device=edge_index.device)
    return (node > last).long() + (node >= first).long()


def has_even_cycles(edge_index: Tensor, num_nodes: int) -> bool:
    """Return whether all cycles of a graph are even (it is bipartite), and at least `SURE` of them independent.

    `edge_index` `[2, k]` may hold copies and both directions.
    """
    pairs, nodes = _simple(edge_index, num_nodes)
    if _num_cycles(pairs, nodes) < SURE:
        return False
    if bool((pairs[0] == pairs[1]).any()) or _odd_near(pairs, nodes):
        return False
    row, col = pairs.cpu().numpy()

    def parts(row: np.ndarray, col: np.ndarray, size: int) -> int:
        matrix = coo_array((np.ones(row.size, dtype=np.int8), (row, col)), shape=(size, size))
        return connected_components(matrix, directed=False, return_labels=False)

    # Two copies of each node, joined across: an odd cycle joins the copies of its component.
    both = parts(np.concatenate([row, row + nodes]), np.concatenate([col + nodes, col]), 2 * nodes)
    return both == 2 * parts(row, col, nodes)


def _simple(edge_index: Tensor, num_nodes: int) -> tuple[Tensor, int]:
    """Return each undirected edge once, `[2, k]`, between nodes that are numbered from 0, and the number of these."""
    if num_nodes > edge_index.numel():
        ids, place = edge_index.unique(return_inverse=True)
        edge_index, num_nodes = place.view(2, -1), ids.numel()
    low, high = edge_index.aminmax(dim=0)
    key = unique(pair_key((low, high), num_nodes))
    row = key // num_nodes
    return torch.stack([row, key - row * num_nodes]), num_nodes


def _num_cycles(pairs: Tensor, num_nodes: int) -> int:
    """Return the number of independent cycles that there are at least, as if the graph were connected."""
    there = torch.zeros(num_nodes, dtype=torch.bool, device=pairs.device)
    there[pairs.flatten()] = True
    return pairs.size(1) - int(there.sum()) + 1


def _odd_near(pairs: Tensor, num_nodes: int) -> bool:
    """Return whether an odd cycle shows within `_NEAR` hops of a node of the highest degree, as it does in most graphs.

    A look at the edges near one node is faster than one at all components.
    """
    row, col = pairs
    hub = int(torch.bincount(pairs.flatten(), minlength=num_nodes).argmax())
    depth = torch.full((num_nodes,), -1, dtype=torch.int8, device=pairs.device)
    depth[hub] = 0
    for hop in range(_NEAR):
        ends = depth[row], depth[col]
        if bool(((ends[0] == hop) & (ends[1] == hop)).any()):  # as far as each other from the hub
            return True
        for here, there in ((ends[0], col), (ends[1], row)):
            reached = there[here == hop]
            depth[reached[depth[reached] < 0]] = hop + 1
        if not bool((depth == hop + 1).any()):
            return False
    return False
