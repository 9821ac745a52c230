"""Sparse adjacency matrices beside `edge_index`: `adj_t`, or any sparse attribute `[num_nodes, num_nodes]`."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from gunlearn.errors import InvalidRequestError
from gunlearn.requests.selection import Selection

if TYPE_CHECKING:
    from torch_geometric.data import Data

    from gunlearn.requests.training_graph import TrainingGraph

_LAYOUTS = {
    torch.sparse_coo: lambda matrix: matrix,
    torch.sparse_csr: lambda matrix: matrix.to_sparse_csr(),
    torch.sparse_csc: lambda matrix: matrix.to_sparse_csc(),
}


def is_adjacency(value: Any, num_nodes: int) -> bool:
    """Return whether an attribute is a sparse matrix `[num_nodes, num_nodes]`, of torch or of torch-sparse."""
    if isinstance(value, Tensor):
        return value.layout != torch.strided and value.shape == (num_nodes, num_nodes)
    return hasattr(value, "sparse_sizes") and tuple(value.sparse_sizes()) == (num_nodes, num_nodes)


def without_entries_of(data: Data, retain: Data, graph: TrainingGraph, selection: Selection) -> None:
    """Take the entries of forgotten edges and nodes out of every sparse adjacency matrix of `retain`.

    Raises:
        InvalidRequestError: a matrix that is dense, or holds other entries than the edges and a diagonal: it was
            derived from the whole graph, so that what stays would depend on what is forgotten.
    """
    if not (bool(selection.edges.any()) or selection.nodes.numel()):
        return
    for name in data.keys():  # noqa: SIM118 - iterating a Data yields pairs
        value = data[name]
        if name in ("adj", "adj_t") and not is_adjacency(value, graph.num_nodes) and value is not None:
            raise InvalidRequestError(
                f"Expected '{name}' as a sparse matrix of shape [{graph.num_nodes}, {graph.num_nodes}] (got "
                f"{type(value).__name__}); delete it, or rebuild it from 'retain_data.edge_index'"
            )
        if name != "x" and is_adjacency(value, graph.num_nodes):
            retain[name] = _without(name, value, graph, selection)


def _without(name: str, value: Any, graph: TrainingGraph, selection: Selection) -> Any:
    row, col, weight = matrix_entries(value)
    entries, edges, n = torch.stack([row, col]), graph.edge_index.to(row.device), graph.num_nodes
    edge_key, off = edges[0] * n + edges[1], row != col
    directions = [1, 0] if name.endswith("_t") else [0, 1]  # PyG's `adj_t` is transposed
    for first in directions:
        key = entries[first] * n + entries[1 - first]
        if bool(torch.isin(key[off], edge_key).all()):
            break
    else:
        raise InvalidRequestError(
            f"Expected the sparse attribute '{name}' to hold the edges of 'data.edge_index' (got others, which were "
            "derived from the whole graph, the forgotten edges included); delete it, or compute it again from "
            "'retain_data.edge_index'"
        )
    gone = torch.isin(key, edge_key[selection.edges.to(row.device)])
    gone &= ~torch.isin(key, edge_key[~selection.edges.to(row.device)])
    gone |= torch.isin(entries, selection.nodes.to(row.device)).any(dim=0)
    if weight is not None and weight.dim() == 1 and not _are_own(weight, key, off, edge_key, graph.data):
        warnings.warn(
            f"the values of 'data.{name}' stay as they are; if they were computed from the whole graph (normalised by "
            "degree, say), compute it again from the retained edges",
            stacklevel=2,
        )
    return rebuilt_matrix(value, row[~gone], col[~gone], None if weight is None else weight[~gone])


def _are_own(weight: Tensor, key: Tensor, off: Tensor, edge_key: Tensor, data: Data) -> bool:
    """Return whether values are all the same, or those of an attribute of the edges."""
    if weight.numel() == 0 or bool((weight == weight[0]).all()):
        return True
    order = edge_key.argsort()
    place = order[torch.searchsorted(edge_key[order], key[off]).clamp_(max=max(order.numel() - 1, 0))]
    for name in ("edge_weight", "edge_attr"):
        given = data.get(name)
        if isinstance(given, Tensor) and given.numel() == edge_key.numel():
            return bool((given.view(-1).to(weight)[place] == weight[off]).all())
    return False


def matrix_entries(value: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return rows, columns and values of the entries of a sparse matrix, `[k]` each."""
    if not isinstance(value, Tensor):
        return value.coo()
    matrix = (value if value.layout == torch.sparse_coo else value.to_sparse_coo()).coalesce()
    return *matrix.indices(), matrix.values()


def rebuilt_matrix(value: Any, row: Tensor, col: Tensor, weight: Tensor | None) -> Any:
    """Return a sparse matrix of the kind and shape of `value` with other entries."""
    if not isinstance(value, Tensor):
        return type(value)(row=row, col=col, value=weight, sparse_sizes=value.sparse_sizes())
    matrix = torch.sparse_coo_tensor(torch.stack([row, col]), cast(Tensor, weight), value.shape, check_invariants=False)
    return _LAYOUTS[value.layout](matrix.coalesce())
