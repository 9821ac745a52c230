"""Adjacency matrices beside `edge_index`: `adj_t`, or any sparse or dense attribute `[num_nodes, num_nodes]`."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from gunlearn.errors import InvalidRequestError
from gunlearn.requests.forgotten import Forgotten

if TYPE_CHECKING:
    from torch_geometric.data import Data

_LAYOUTS = {
    torch.sparse_coo: lambda matrix: matrix,
    torch.sparse_csr: lambda matrix: matrix.to_sparse_csr(),
    torch.sparse_csc: lambda matrix: matrix.to_sparse_csc(),
}
_NAMES = ("adj", "adj_t", "adjacency", "adj_matrix", "adjacency_matrix")


def is_adjacency(value: Any, num_nodes: int) -> bool:
    """Return whether an attribute is a sparse matrix `[num_nodes, num_nodes]`, of torch, torch-sparse or SciPy."""
    if isinstance(value, Tensor):
        return value.layout != torch.strided and value.shape == (num_nodes, num_nodes)
    size = getattr(value, "sparse_sizes", None)
    return (tuple(size()) if size else getattr(value, "shape", None) if hasattr(value, "tocoo") else None) == (
        num_nodes,
        num_nodes,
    )


def _is_dense(value: Any, num_nodes: int) -> bool:
    dense = isinstance(value, np.ndarray) or (isinstance(value, Tensor) and value.layout == torch.strided)
    return dense and tuple(value.shape[:2]) == (num_nodes, num_nodes) and num_nodes > 2


def without_entries_of(data: Data, retain: Data, forgotten: Forgotten) -> None:
    """Take the entries of forgotten edges and nodes out of every adjacency matrix of `retain`.

    Raises:
        InvalidRequestError: a sparse matrix, or one named as an adjacency matrix, that holds other entries than the
            edges and a diagonal: it was derived from the whole graph, so that what stays would depend on what is
            forgotten.
    """
    if not (forgotten.columns.numel() or forgotten.nodes.numel()):
        return
    size = forgotten.graph.num_nodes
    for name in data.keys():  # noqa: SIM118 - iterating a Data yields pairs
        value = data[name]
        dense = _is_dense(value, size)
        if name in ("adj", "adj_t") and not (dense or is_adjacency(value, size)) and value is not None:
            raise InvalidRequestError(
                f"Expected '{name}' as a matrix of shape [{size}, {size}] (got "
                f"{type(value).__name__}); delete it, or rebuild it from 'retain_data.edge_index'"
            )
        if name not in ("x", "y") and (dense or is_adjacency(value, size)):
            retain[name] = _without(name, value, forgotten, dense)


def _without(name: str, value: Any, forgotten: Forgotten, dense: bool) -> Any:
    row, col, weight = _dense_entries(value) if dense else matrix_entries(value)
    graph, off = forgotten.graph, row != col
    entries, edges = torch.stack([row.long(), col.long()]).to(forgotten.columns.device), graph.edge_index
    for first in [1, 0] if name.endswith("_t") else [0, 1]:  # PyG's `adj_t` is transposed
        pairs = entries[[first, 1 - first]]
        if bool(forgotten.is_edge(pairs[:, off.to(pairs.device)]).all()):
            break
    else:
        if dense and name not in _NAMES:
            _warn_of_values(name, value, edges[:, forgotten.columns])
            return value
        raise InvalidRequestError(
            f"Expected the {'dense' if dense else 'sparse'} attribute '{name}' to hold the edges of 'data.edge_index' "
            "(got others, which were derived from the whole graph, the forgotten edges included); delete it, or "
            "compute it again from 'retain_data.edge_index'"
        )
    gone, torn = forgotten.pairs_go(pairs)
    loops = ~off.to(gone.device)
    if bool(loops.any()) or torn:  # a diagonal that was added is of no relation
        gone[~loops], torn = forgotten.pairs_go(pairs[:, ~loops])
    if torn:
        warnings.warn(
            f"'data.{name}' may hold edges of several relations, and pairs that a forgotten edge of one joins and a "
            "retained edge of another stay; compute it again from the retained edges, one matrix per relation",
            stacklevel=2,
        )
    gone = (gone | forgotten.ends_go(pairs)).to(row.device)
    if not bool(gone.any()):
        return value
    if weight is not None and weight.dim() == 1 and not _are_own(weight, pairs.to(row.device), off, forgotten):
        warnings.warn(
            f"the values of 'data.{name}' stay as they are; if they were computed from the whole graph (normalised by "
            "degree, say), compute it again from the retained edges",
            stacklevel=2,
        )
    if dense:
        return _zeroed(value, row[gone], col[gone])
    return rebuilt_matrix(value, row[~gone], col[~gone], None if weight is None else weight[~gone])


def _are_own(weight: Tensor, pairs: Tensor, off: Tensor, forgotten: Forgotten) -> bool:
    """Return whether values are all the same, or those of an attribute of the edges."""
    if weight.numel() == 0 or bool((weight == weight[0]).all()):
        return True
    edge_key, key = forgotten.key, forgotten.graph.ordered_key(pairs[:, off]).to(forgotten.key.device)
    order = edge_key.argsort()
    place = order[torch.searchsorted(edge_key[order], key).clamp_(max=max(order.numel() - 1, 0))].to(weight.device)
    for name in ("edge_weight", "edge_attr"):
        given = forgotten.graph.data.get(name)
        if isinstance(given, Tensor) and given.numel() == edge_key.numel():
            return bool((given.view(-1).to(weight)[place] == weight[off]).all())
    return False


def _warn_of_values(name: str, value: Any, gone: Tensor) -> None:
    """Warn of a value per pair of nodes, such as a distance, that forgotten edges have, too."""
    row, col = gone.cpu().numpy() if isinstance(value, np.ndarray) else gone.to(value.device)
    if bool((value[row, col] != 0).any()):
        warnings.warn(
            f"'data.{name}' has a value for each pair of nodes, those of forgotten edges too, and stays as it is; if "
            "it was computed from the edges (a distance, say), compute it again from the retained ones",
            stacklevel=4,
        )


def _dense_entries(value: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    value = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
    there = (value != 0).flatten(2).any(2) if value.dim() > 2 else value != 0
    row, col = there.nonzero().t()
    return row, col, value[row, col] if value.dim() == 2 else None


def _zeroed(value: Any, row: Tensor, col: Tensor) -> Any:
    new = value.copy() if isinstance(value, np.ndarray) else value.clone()
    new[(row.numpy(), col.numpy()) if isinstance(value, np.ndarray) else (row, col)] = 0
    return new


def matrix_entries(value: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return rows, columns and values `[k]` of a sparse matrix; `None` where it has no values."""
    if hasattr(value, "tocoo"):
        matrix = value.tocoo()
        return (
            torch.from_numpy(matrix.row.astype(np.int64)),
            torch.from_numpy(matrix.col.astype(np.int64)),
            torch.from_numpy(np.asarray(matrix.data)),
        )
    if not isinstance(value, Tensor):
        return value.coo()
    sparse = (value if value.layout == torch.sparse_coo else value.to_sparse_coo()).coalesce()
    return *sparse.indices(), sparse.values()


def rebuilt_matrix(value: Any, row: Tensor, col: Tensor, weight: Tensor | None) -> Any:
    """Return a sparse matrix of the kind and size of `value` with these entries `[k]`."""
    if hasattr(value, "tocoo"):
        matrix = value.tocoo()
        entries = (cast(Tensor, weight).numpy(), (row.numpy(), col.numpy()))
        return type(matrix)(entries, shape=value.shape).asformat(value.format)
    if not isinstance(value, Tensor):
        return type(value)(row=row, col=col, value=weight, sparse_sizes=value.sparse_sizes())
    sparse = torch.sparse_coo_tensor(torch.stack([row, col]), cast(Tensor, weight), value.shape, check_invariants=False)
    return _LAYOUTS[value.layout](sparse.coalesce())
