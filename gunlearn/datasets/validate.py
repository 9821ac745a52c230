"""The check that every graph must pass before anything is trained on it."""

from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from gunlearn.errors import InvalidInputError, InvalidTypeError


def _check_features(x: Any) -> None:
    if not isinstance(x, Tensor):
        raise InvalidInputError(f"Expected data.x to be a tensor [num_nodes, num_features] (got {type(x).__name__})")
    if x.dim() != 2:
        raise InvalidInputError(f"Expected data.x of shape [num_nodes, num_features] (got {list(x.shape)})")
    if not x.is_floating_point():
        raise InvalidInputError(f"Expected data.x of a floating point dtype (got {x.dtype}); call data.x.float()")
    if x.layout != torch.strided:
        values = x.coalesce().values() if x.layout == torch.sparse_coo else x.values()
        if not bool(torch.isfinite(values).all()):
            raise InvalidInputError("Expected data.x to be finite (got NaN or infinite values)")
        return
    finite = torch.isfinite(x)
    if not bool(finite.all()):
        row, column = (int(i) for i in (~finite).nonzero()[0])
        raise InvalidInputError(f"Expected data.x to be finite (got {x[row, column].item()} at [{row}, {column}])")


def _check_edges(edge_index: Any, num_nodes: int) -> None:
    if not isinstance(edge_index, Tensor):
        raise InvalidInputError(
            f"Expected data.edge_index to be a tensor [2, num_edges] (got {type(edge_index).__name__})"
        )
    if edge_index.dtype != torch.long:
        raise InvalidInputError(f"Expected data.edge_index of dtype torch.int64 (got {edge_index.dtype})")
    if edge_index.dim() != 2 or edge_index.size(0) != 2:
        raise InvalidInputError(f"Expected data.edge_index of shape [2, num_edges] (got {list(edge_index.shape)})")
    outside = edge_index[(edge_index < 0) | (edge_index >= num_nodes)]
    if outside.numel():
        raise InvalidInputError(f"Expected node ids of data.edge_index in [0, {num_nodes - 1}] (got {int(outside[0])})")


def validate(data: Data) -> Data:
    """Return `data` itself, checked to be a graph that the rest of the package can work on.

    Args:
        data: graph with `x` `[num_nodes, num_features]` (floating point, finite; dense, COO or CSR) and `edge_index`
            `[2, num_edges]` (int64, ids below `num_nodes`).

    Raises:
        InvalidTypeError: `data` is no `torch_geometric.data.Data`.
        InvalidInputError: wrong content; the message names the attribute, the rule and the value.
    """
    if not isinstance(data, Data):
        raise InvalidTypeError(f"Expected a torch_geometric.data.Data (got {type(data).__name__})")
    _check_features(data.x)
    num_rows = data.x.size(0)
    if data.num_nodes != num_rows:  # set by hand: PyG takes it from x otherwise
        raise InvalidInputError(f"Expected data.num_nodes to be the rows of data.x, {num_rows} (got {data.num_nodes})")
    _check_edges(data.edge_index, num_rows)
    return data
