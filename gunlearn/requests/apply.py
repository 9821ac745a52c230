"""Take a selection out of a graph; the rest is what a model may learn from and be used on.

- An **edge** leaves every list that holds it (see `pair_lists`) and every sparse adjacency matrix (see `adjacency`),
  both directions and all copies, with its attributes.
- A **node** keeps its number, so that the caller's ids stay right, and loses all else: its edges, its row of `x`
  (zeros), its label (-1; zeros where `y` does not hold integers), its place in every mask, its row of every other node
  attribute (zeros; -1 in integers named `*_id`), its place in every list of nodes, and the pairs that it is an end of.
  Nothing is trained or evaluated on it.
- **Features** become zeros; the node keeps label and edges. CSR features lose the entries themselves, since a stored
  zero would still reveal where they were. Integers that number the nodes (`x = arange(num_nodes)`) are no features:
  they stay, and say nothing. See `features`.
- A **graph** of a batch loses all its nodes in that way, its label and its place in the masks.
"""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gunlearn.errors import InvalidRequestError
from gunlearn.requests.adjacency import is_adjacency, without_entries_of
from gunlearn.requests.features import features_without, without_features
from gunlearn.requests.pair_lists import kept_entries, named_lists
from gunlearn.requests.selection import Selection
from gunlearn.requests.training_graph import GONE, MASKS, TrainingGraph, num_graphs

if TYPE_CHECKING:
    from torch_geometric.data import Data

# Attributes that list edges of their own; never masked with edge_index, even where they are as long.
_OTHER_EDGES = re.compile(r"^(train|val|test)_.*edge|edge_index$|edge_label_index$")
_STRUCTURE = ("batch", "ptr", "node_type", "n_id")  # where a node is, not what it is


def data_without(graph: TrainingGraph, selection: Selection) -> Data:
    """Return a shallow copy of the graph's data without a closed selection; unchanged tensors are shared."""
    data = graph.data
    retain = _without_edges(graph, selection)
    if selection.nodes.numel():
        _blank_nodes(graph, retain, selection.nodes)
    if selection.graphs.numel():
        _blank(retain, selection.graphs, [name for name in ("y", *MASKS) if _per_graph(data, name)])
    if selection.features or (selection.nodes.numel() and data.get("x") is not None):
        retain.x = features_without(_features(retain), selection, data.get("node_type"))
    return retain


def _without_edges(graph: TrainingGraph, selection: Selection) -> Data:
    data, forget_mask = graph.data, selection.edges
    # `is_edge_attr` caches its answers on its object: ask a copy, whose cache is new.
    retain, probe = copy.copy(data), copy.copy(data)
    # Fixed, because PyG may infer the number of nodes from edge_index, which has fewer edges now.
    retain.num_nodes = probe.num_nodes = graph.num_nodes
    per_edge = edge_attributes(probe, graph.num_columns)
    for name in per_edge:
        retain[name] = select_entries(data[name], ~forget_mask, data.__cat_dim__(name, data[name]))
    retain.edge_index = graph.edge_index[:, ~forget_mask]

    # After the loop above: an edge_label as long as edge_index goes with edge_label_index all the same.
    gone = graph.edge_index[:, forget_mask]
    for one in named_lists(data, graph.num_nodes, per_edge):
        kept = kept_entries(one, gone, retain.edge_index, selection.nodes)
        if not bool(kept.all()):
            retain[one.name] = select_entries(data[one.name], kept, one.dim)
            for partner in one.partners:
                retain[partner] = select_entries(data[partner], kept, 0)
    without_entries_of(data, retain, graph, selection)

    for name in ("_slice_dict", "_inc_dict"):  # the old positions of each graph's edges in a batch
        retain.__dict__.pop(name, None)
    if "num_edges" in data:
        retain["num_edges"] = retain.edge_index.size(1)
    return retain


def _blank_nodes(graph: TrainingGraph, retain: Data, nodes: Tensor) -> None:
    data = graph.data
    gone = torch.zeros(graph.num_nodes, dtype=torch.bool, device=nodes.device).index_fill_(0, nodes, True)
    probe = copy.copy(data)
    probe.num_nodes = graph.num_nodes
    lists = named_lists(data, graph.num_nodes, edge_attributes(copy.copy(probe), graph.num_columns))
    listed = {name for one in lists for name in (one.name, *one.partners)}
    per_node = [
        name
        for name in data.keys()  # noqa: SIM118 - iterating a Data yields pairs
        if name not in (*_STRUCTURE, "x", GONE)
        and name not in listed
        and not name.endswith("index")
        and not is_adjacency(data[name], graph.num_nodes)
        and probe.is_node_attr(name)
        and not _per_graph(data, name)
    ]
    _blank(retain, nodes, per_node)
    for name in per_node:  # a dense value of each pair of nodes, such as a distance: its column goes too
        value = retain[name]
        if isinstance(value, Tensor) and value.layout == torch.strided and value.shape[1:2] == (graph.num_nodes,):
            retain[name] = value.index_fill(1, nodes.to(value.device), 0)
    before = data.get(GONE)
    retain[GONE] = gone if before is None else gone | before.to(gone.device)


def _blank(retain: Data, rows: Tensor, names: list[str]) -> None:
    """Set rows of some attributes to zero, and unknown labels of integers to -1."""
    for name in names:
        value = retain[name]
        if isinstance(value, np.ndarray):
            value = value.copy()
            value[rows.cpu().numpy()] = 0 if value.dtype.kind in "biufc" else None
            retain[name] = value
        elif isinstance(value, (list, tuple)):
            gone = set(rows.tolist())
            retain[name] = type(value)(None if i in gone else entry for i, entry in enumerate(value))
        elif value.layout != torch.strided:
            retain[name] = without_features(value, ((rows, None),))
        else:
            label = name == "y" or name.endswith("_id")
            label = label and not value.is_floating_point() and value.dtype != torch.bool
            retain[name] = value.index_fill(0, rows.to(value.device), -1 if label else 0)


def _per_graph(data: Data, name: str) -> bool:
    """Return whether an attribute has a row per graph of a batch, not per node."""
    value = data.get(name)
    rows = isinstance(value, Tensor) and value.dim() > 0 and isinstance(data.get("batch"), Tensor)
    return rows and value.size(0) == num_graphs(data)


def _features(data: Data) -> Tensor:
    x = data.get("x")
    if not isinstance(x, Tensor) or x.dim() < 1 or x.size(0) != data.num_nodes:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise InvalidRequestError(f"Expected features 'data.x' of shape [{data.num_nodes}, ...] (got {got})")
    return x


def edge_attributes(data: Data, num_columns: int) -> list[str]:
    """Return the names of the attributes that run along the columns of edge_index, by PyG's own rule."""
    # With as many nodes as edges PyG decides by the name of a tensor, but not of a list.
    by_name = data.num_nodes == num_columns
    return [
        name
        for name in data.keys()  # noqa: SIM118 - iterating a Data yields pairs
        if name != "edge_index"
        and not _OTHER_EDGES.search(name)
        and data.is_edge_attr(name)
        and (not by_name or "edge" in name)
    ]


def select_entries(value: Any, keep: Tensor, dim: int) -> Any:
    """Return the entries of a tensor, array or list where `keep` is true."""
    if isinstance(value, Tensor):
        return value.index_select(dim, keep.nonzero().flatten().to(value.device))
    if isinstance(value, np.ndarray):
        return np.compress(keep.cpu().numpy(), value, axis=dim)
    if isinstance(value, (list, tuple)):
        return type(value)(entry for entry, kept in zip(value, keep.tolist(), strict=True) if kept)
    return value[keep]
