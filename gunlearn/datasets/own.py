"""Graphs in memory: the user's own, and small ones of scikit-learn and networkx, which need no files."""

from typing import Any

import networkx as nx
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import kneighbors_graph
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import coalesce, from_scipy_sparse_matrix, remove_self_loops, to_undirected

from gunlearn.datasets.validate import validate
from gunlearn.errors import InvalidInputError, InvalidTypeError

# One-hot features take num_nodes^2 numbers; larger graphs must bring features.
MAX_IDENTITY_NODES = 4096
DIGITS_NEIGHBOURS = 5


def build(edge_index: Tensor, x: Tensor, y: Tensor | None = None, undirected: bool = True) -> Data:
    """Build a graph in the form that all loaders return, without `y` where there are no labels.

    It is checked, has no self-loops and duplicates, and its edges are sorted by source, then target; with `undirected`
    the reverse of every edge is added.
    """
    merge = to_undirected if undirected else coalesce
    edge_index = merge(remove_self_loops(edge_index)[0], num_nodes=x.size(0))
    return validate(Data(x=x, edge_index=edge_index, **({} if y is None else {"y": y})))


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
    return torch.from_numpy(array.astype(np.int64))


def from_networkx(graph: nx.Graph, features: Any = None, labels: Any = None) -> Data:
    """Turn a networkx graph into a `Data`; attributes of nodes and edges are not read.

    Args:
        graph: nodes of any kind; node `i` of the result is `list(graph)[i]`. An undirected graph gives both directions
            of every edge, a directed one the given direction. Self-loops are dropped, parallel edges merged.
        features: tensor or array `[num_nodes, num_features]` in the order of `list(graph)`; one-hot when `None`.
        labels: integers `[num_nodes]` in the same order; no `y` when `None`.

    Raises:
        InvalidTypeError: `graph` is no networkx graph.
        InvalidInputError: no nodes, or features or labels that do not fit.
    """
    if not isinstance(graph, nx.Graph):
        raise InvalidTypeError(f"Expected a networkx graph (got {type(graph).__name__})")
    num_nodes = graph.number_of_nodes()
    if num_nodes == 0:
        raise InvalidInputError("Expected a graph with at least one node (got an empty graph)")
    x = identity_features(num_nodes) if features is None else as_features(features)
    if x.size(0) != num_nodes:
        raise InvalidInputError(f"Expected features with {num_nodes} rows, one per node (got {x.size(0)})")
    position = {node: i for i, node in enumerate(graph)}
    pairs = [(position[u], position[v]) for u, v in graph.edges()]
    edge_index = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).t()
    y = None if labels is None else as_labels(labels, num_nodes)
    return build(edge_index, x, y, undirected=not graph.is_directed())


def digits() -> Data:
    """Return the nearest-neighbour graph of scikit-learn's 1797 handwritten digits, 8 x 8 pixels.

    Each image has an undirected edge to the `DIGITS_NEIGHBOURS` images nearest in Euclidean distance of the pixels. `x`
    `[1797, 64]` is scaled to `[0, 1]`, `y` is the digit.
    """
    bunch = load_digits()
    pixels = bunch.data / 16.0  # 16 grey levels above 0
    neighbours = kneighbors_graph(pixels, DIGITS_NEIGHBOURS, mode="connectivity", include_self=False)
    return build(from_scipy_sparse_matrix(neighbours)[0], as_features(pixels), as_labels(bunch.target, len(pixels)))


def karate() -> Data:
    """Return Zachary's karate club: 34 members, one-hot features, no weights, `y` the club (0 Mr. Hi, 1 Officer)."""
    graph = nx.karate_club_graph()
    return from_networkx(graph, labels=[int(club == "Officer") for _, club in graph.nodes(data="club")])


def lesmis() -> Data:
    """Return the characters of Les Miserables that share a scene: 77 nodes, one-hot features, no labels, no weights."""
    return from_networkx(nx.les_miserables_graph())
