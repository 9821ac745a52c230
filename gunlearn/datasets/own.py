"""What all loaders end in: features, labels and edges in memory become a checked graph."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import coalesce, remove_self_loops, to_undirected

from gunlearn.datasets.class_labels import check_classes
from gunlearn.datasets.validate import validate
from gunlearn.errors import InvalidInputError

# One-hot features take num_nodes^2 numbers; larger graphs must bring features.
MAX_IDENTITY_NODES = 4096


def build(
    edge_index: Tensor,
    x: Tensor,
    y: Tensor | None = None,
    undirected: bool = True,
    attributes: Mapping[str, Tensor] | None = None,
) -> Data:
    """Build a graph in the form that all loaders return, without `y` where there are no labels.

    It is checked, has no self-loops and duplicates, and its edges are sorted by source, then target; with `undirected`
    the reverse of every edge is added. Edges with `attributes` (`[E, ...]` each, by name) are duplicates where these
    are equal too: copies of an edge with other values stay.
    """
    if attributes:
        edge_index, given = _distinct(edge_index, attributes, undirected)
    else:
        merge = to_undirected if undirected else coalesce
        edge_index, given = merge(remove_self_loops(edge_index)[0], num_nodes=x.size(0)), {}
    return validate(Data(x=x, edge_index=edge_index, **({} if y is None else {"y": y}), **given))


def _distinct(
    edge_index: Tensor, attributes: Mapping[str, Tensor], undirected: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return edges and their attributes sorted by source and target, without self-loops and equal copies."""
    kept = edge_index[0] != edge_index[1]
    edge_index, given = edge_index[:, kept], {name: value[kept] for name, value in attributes.items()}
    if undirected:
        edge_index = torch.cat([edge_index, edge_index.flip(0)], dim=1)
        given = {name: torch.cat([value, value]) for name, value in given.items()}
    columns = [*edge_index, *(c for value in given.values() for c in value.reshape(len(value), -1).t())]
    order = torch.from_numpy(np.lexsort([column.numpy() for column in reversed(columns)]))
    new = torch.ones(order.numel(), dtype=torch.bool)
    new[1:] = torch.stack([column[order].diff() != 0 for column in columns]).any(dim=0)
    order = order[new]
    return edge_index[:, order], {name: value[order] for name, value in given.items()}


def identity_features(num_nodes: int) -> Tensor:
    """Return one-hot features `[num_nodes, num_nodes]` for a graph without features."""
    if num_nodes > MAX_IDENTITY_NODES:
        raise InvalidInputError(
            f"Expected features for a graph of more than {MAX_IDENTITY_NODES} nodes, where one-hot features would be "
            f"too large (got none for {num_nodes} nodes)"
        )
    return torch.eye(num_nodes)


def _array(values: Any) -> np.ndarray:
    return np.asarray(values.detach().cpu().numpy() if isinstance(values, Tensor) else values)


def as_features(features: Any, source: str = "features") -> Tensor:
    """Return a finite float32 matrix from a tensor or anything numpy takes."""
    array = _array(features)
    if array.dtype.kind not in "fiub":
        raise InvalidInputError(f"Expected {source} to hold real numbers (got dtype {array.dtype})")
    if array.ndim != 2:
        raise InvalidInputError(f"Expected {source} of shape [num_nodes, num_features] (got {list(array.shape)})")
    if array.shape[1] == 0:
        raise InvalidInputError(f"Expected {source} with at least one column (got shape {list(array.shape)})")
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes inf and is reported below
        array = array.astype(np.float32)
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        row, column = bad[0]
        raise InvalidInputError(
            f"Expected {source} to be finite (got {array[row, column]} in row {row}, column {column})"
        )
    return torch.from_numpy(array)


def as_labels(labels: Any, num_nodes: int, source: str = "labels") -> Tensor:
    """Return one integer per node, `[num_nodes]`, from a tensor or anything numpy takes."""
    array = _array(labels)
    if array.dtype.kind not in "iub":
        raise InvalidInputError(f"Expected {source} to hold integers (got dtype {array.dtype})")
    if array.shape != (num_nodes,):
        raise InvalidInputError(f"Expected {source} of shape [{num_nodes}], one per node (got {list(array.shape)})")
    labels = torch.from_numpy(array.astype(np.int64))
    check_classes(labels, source)
    return labels
