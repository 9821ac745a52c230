"""The types of a graph's nodes: given, or read off a bipartite graph."""

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch_geometric.data import Data

from gunlearn.errors import InvalidInputError

#: So many independent cycles of even length make a bipartite graph no accident: one in 2^20 sparse random graphs.
SURE = 20


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
    if last >= first or not has_even_cycles(edge_index, num_nodes):
        return None
    node = torch.arange(num_nodes, device=edge_index.device)
    return (node > last).long() + (node >= first).long()


def has_even_cycles(edge_index: Tensor, num_nodes: int) -> bool:
    """Return whether all cycles of a graph are even (it is bipartite), and at least `SURE` of them independent."""
    row, col = edge_index.cpu().numpy()
    nodes, place = np.unique(np.concatenate([row, col]), return_inverse=True)
    row, col = place.reshape(2, -1)
    size = nodes.size
    number = np.unique(np.minimum(row, col) * size + np.maximum(row, col)).size
    if number - size + 1 < SURE:  # cycles, where the graph is connected
        return False

    def parts(row: np.ndarray, col: np.ndarray, size: int) -> int:
        matrix = coo_array((np.ones(row.size, dtype=np.int8), (row, col)), shape=(size, size))
        return connected_components(matrix, directed=False, return_labels=False)

    count = parts(row, col, size)
    # Two copies of each node, joined across: an odd cycle joins the copies of its component.
    both = parts(np.concatenate([row, row + size]), np.concatenate([col + size, col]), 2 * size)
    return both == 2 * count and number - size + count >= SURE
