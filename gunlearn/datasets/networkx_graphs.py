"""Graphs of networkx, with their attributes of nodes and edges."""

import warnings
from collections.abc import Sequence
from typing import Any

import networkx as nx
import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from gunlearn.datasets.class_labels import read_classes
from gunlearn.datasets.edge_columns import ROLES, edge_tensors
from gunlearn.datasets.node_ids import of_labels
from gunlearn.datasets.own import as_features, as_labels, build, identity_features
from gunlearn.datasets.text_tables import InputTable, plain
from gunlearn.errors import InvalidInputError, InvalidTypeError

_FEATURES = ("x", "features", "feature", "feat")
_LABELS = ("y", "label", "labels", "class")
_MASKS = ("train_mask", "val_mask", "test_mask")
_EDGE_FEATURES = ("edge_attr", "attr", "features")
# Written by readers and writers of files, not by people.
_ASIDE = ("id", "key", "pos", "viz")


def from_networkx(graph: nx.Graph, features: Any = None, labels: Any = None) -> Data:
    """Turn a networkx graph into a `Data`, with its attributes of nodes and edges.

    Nodes that are not 0, 1, ... in this order are kept in `node_id`, as integers or texts. Node attributes `x` (or
    `features`), `y` (or `label`) and `train_mask`, `val_mask`, `test_mask` are read, and edge attributes `weight`,
    `time`, `type` and `edge_attr`; see `docs/data.md`.

    Args:
        graph: nodes of any kind; node `i` of the result is `list(graph)[i]`. An undirected graph gives both directions
            of every edge, a directed one the given direction. Self-loops are dropped, parallel edges merged where their
            attributes are equal.
        features: tensor or array `[num_nodes, num_features]` in the order of `list(graph)`, or the names of numeric
            node attributes, `["age", "income"]`; the attribute `x` when `None`, and one-hot without it.
        labels: integers `[num_nodes]` in the same order, or the name of a node attribute; the attribute `y` when
            `None`, and no `y` without it. Texts become classes in alphabetical order, named in `label_names`.

    Raises:
        InvalidTypeError: `graph` is no networkx graph.
        InvalidInputError: no nodes, features or labels that do not fit, or an attribute that some nodes or edges lack.

    Warns:
        UserWarning: attributes that are not read.
    """
    if not isinstance(graph, nx.Graph):
        raise InvalidTypeError(f"Expected a networkx graph (got {type(graph).__name__})")
    num_nodes = graph.number_of_nodes()
    if num_nodes == 0:
        raise InvalidInputError("Expected a graph with at least one node (got an empty graph)")
    x, used = _features(graph, features)
    y, names, label = _labels(graph, labels)
    if x.size(0) != num_nodes:
        raise InvalidInputError(f"Expected features with {num_nodes} rows, one per node (got {x.size(0)})")
    position = {node: i for i, node in enumerate(graph)}
    pairs = [(position[u], position[v]) for u, v in graph.edges()]
    edge_index = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).t()
    attributes, relations = _edge_attributes(graph)
    data = build(edge_index, x, y, not graph.is_directed(), attributes)
    kept = {"node_id": of_labels(list(graph), "the graph"), "label_names": names, **relations}
    for name in _MASKS:
        if any(name in given for _, given in graph.nodes(data=True)):
            kept[name] = torch.from_numpy(_column(graph, name).astype(bool))
    for name, value in kept.items():
        if value is not None:
            data[name] = value
    known = {*used, *label, *_MASKS, *_ASIDE}
    unread = sorted({str(name) for _, given in graph.nodes(data=True) for name in given} - known)
    if unread:
        warnings.warn(
            f"node attributes {', '.join(map(repr, unread[:8]))} are not read; from_networkx(graph, features=[...], "
            "labels='...') makes features or labels of those that it names",
            stacklevel=2,
        )
    return data


def _column(graph: nx.Graph, name: str) -> np.ndarray:
    """Return an attribute of all nodes, `[num_nodes]` of objects; refuse one that some nodes lack."""
    missing = sum(name not in given for _, given in graph.nodes(data=True))
    if missing:
        raise InvalidInputError(f"Expected attribute {name!r} of every node (got none at {missing} of {len(graph)})")
    column = np.empty(len(graph), dtype=object)
    column[:] = [value for _, value in graph.nodes(data=name)]
    return column


def _the_one(graph: nx.Graph, names: Sequence[str]) -> str | None:
    found = [name for name in names if any(name in given for _, given in graph.nodes(data=True))]
    if len(found) > 1:
        raise InvalidInputError(f"Expected one of the node attributes {list(names)} (got {found})")
    return found[0] if found else None


def _features(graph: nx.Graph, features: Any) -> tuple[Tensor, list[str]]:
    """Return features and the names of the attributes that they are made of."""
    named = isinstance(features, (list, tuple)) and features and all(isinstance(name, str) for name in features)
    if features is not None and not named:
        return as_features(features), list(_FEATURES)
    if named:
        chosen = list(features)
    else:
        found = _the_one(graph, _FEATURES)
        if found is None:
            return identity_features(len(graph)), []
        chosen = [found]
    blocks = [_block(_column(graph, name), f"node attribute {name!r}") for name in chosen]
    return as_features(np.concatenate(blocks, axis=1), f"node attributes {chosen}"), [*chosen, *_FEATURES]


def _block(values: np.ndarray, source: str) -> np.ndarray:
    """Return one or more numbers per item as a matrix."""
    rows = [np.atleast_1d(value.detach().cpu().numpy() if isinstance(value, Tensor) else value) for value in values]
    shapes = {row.shape for row in rows}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1 or any(row.dtype.kind not in "fiub" for row in rows):
        raise InvalidInputError(
            f"Expected {source} to hold as many real numbers everywhere (got shapes {sorted(shapes)[:4]} of "
            f"{sorted({str(row.dtype) for row in rows})[:4]})"
        )
    return np.stack(rows)


def _labels(graph: nx.Graph, labels: Any) -> tuple[Tensor | None, dict[int, str] | None, list[str]]:
    """Return labels, the names of their classes, and the names of the attributes that hold them."""
    if labels is not None and not isinstance(labels, str):
        return as_labels(labels, len(graph)), None, list(_LABELS)
    name = labels
    if name is None:
        there = [name for name in _LABELS if not _displays(graph, name)]
        name = _the_one(graph, there)
        if name is None:
            return None, None, []
    values = np.empty(len(graph), dtype=object)
    values[:] = [given.get(name) for _, given in graph.nodes(data=True)]
    source = f"node attribute {name!r}"
    if not all(np.ndim(value) == 0 for value in values):
        raise InvalidInputError(f"Expected {source} to hold integers or names of classes (got lists or arrays)")
    y, names = read_classes(values, source)
    return y, names, [name, *_LABELS] if labels is not None else [name]


def _displays(graph: nx.Graph, name: str) -> bool:
    """Return whether `label` is what nodes are called, another text for each, as files for drawings have it."""
    values = [given.get(name) for _, given in graph.nodes(data=True)]
    return name == "label" and all(isinstance(v, str) for v in values) and len(set(values)) == len(values)


def _edge_attributes(graph: nx.Graph) -> tuple[dict[str, Tensor], dict[str, dict[int, str]]]:
    rows = [given for _, _, given in graph.edges(data=True)]
    columns: dict[str, np.ndarray] = {}
    for name in dict.fromkeys(name for given in rows for name in given):
        known = str(name) in _EDGE_FEATURES or any(plain(str(name)) in names for names in ROLES.values())
        missing = sum(name not in given for given in rows)
        if missing and known:
            raise InvalidInputError(f"Expected attribute {name!r} of every edge (got none at {missing} of {len(rows)})")
        columns[str(name)] = np.empty(len(rows), dtype=object)
        columns[str(name)][:] = [given.get(name) for given in rows]
    vectors = [name for name in columns if name in _EDGE_FEATURES]
    if len(vectors) > 1:
        raise InvalidInputError(f"Expected one of the edge attributes {list(_EDGE_FEATURES)} (got {vectors})")
    blocks = (
        {"edge_attr": as_features(_block(columns.pop(vectors[0]), f"edge attribute {vectors[0]!r}"))} if vectors else {}
    )
    table = InputTable("the edges' attributes", (), None, np.arange(len(rows)), "edge")
    tensors, names = edge_tensors(columns, table, _ASIDE)
    return tensors | blocks, names
