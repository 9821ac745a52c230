"""Take a selection out of a graph; the rest is what a model may learn from and be used on.

- An **edge** leaves every list that holds it, both directions and all copies, with its attributes.
- A **node** keeps its number, so that the caller's ids stay right, and loses all else: its edges, its row of `x`
  (zeros), its label (-1; zeros where `y` does not hold integers), its place in every mask, its row of every other node
  attribute (zeros), and the held-out pairs that it is an end of. Nothing is trained or evaluated on it.
- **Features** become zeros; the node keeps label and edges. CSR features lose the entries themselves, since a stored
  zero would still reveal where they were.
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
from gunlearn.requests.selection import Selection
from gunlearn.requests.training_graph import MASKS, TrainingGraph, num_graphs, pair_tensor

if TYPE_CHECKING:
    from torch_geometric.data import Data

# Attributes that list edges of their own; never masked with edge_index, even where they are as long.
_OTHER_EDGES = re.compile(r"^(train|val|test)_.*edge|edge_index$|edge_label_index$")
# Training edges listed again as supervision, and the attributes that belong to their columns.
_SUPERVISION = {"train_pos_edge_index": (), "edge_label_index": ("edge_label",)}
_HELD_OUT = tuple(f"{part}_{sign}_edge_index" for part in ("train", "val", "test") for sign in ("pos", "neg"))
_STRUCTURE = ("batch", "ptr", "node_type", "n_id")  # where a node is, not what it is
#: Name of the mask `[num_nodes]` of forgotten nodes: nothing is drawn among them.
GONE = "forgotten_mask"


def data_without(graph: TrainingGraph, selection: Selection) -> Data:
    """Return a shallow copy of the graph's data without a closed selection; unchanged tensors are shared."""
    data = graph.data
    for name in ("adj", "adj_t"):
        if name in data:
            raise InvalidRequestError(
                f"Expected the edges in 'data.edge_index' alone (got '{name}' too, which would keep the forgotten "
                f"edges; delete it, or rebuild it from 'retain_data.edge_index')"
            )
    retain = _without_edges(graph, selection.edges)
    if selection.nodes.numel():
        _blank_nodes(graph, retain, selection.nodes)
    if selection.graphs.numel():
        _blank(retain, selection.graphs, [name for name in ("y", *MASKS) if _per_graph(data, name)])
    if selection.features:
        retain.x = without_features(_features(retain), selection.features)
    return retain


def _without_edges(graph: TrainingGraph, forget_mask: Tensor) -> Data:
    data = graph.data
    # `is_edge_attr` caches its answers on its object: ask a copy, whose cache is new.
    retain, probe = copy.copy(data), copy.copy(data)
    # Fixed, because PyG may infer the number of nodes from edge_index, which has fewer edges now.
    retain.num_nodes = probe.num_nodes = graph.num_nodes
    for name in edge_attributes(probe, graph.num_columns):
        retain[name] = select_entries(data[name], ~forget_mask, data.__cat_dim__(name, data[name]))
    retain.edge_index = graph.edge_index[:, ~forget_mask]

    # After the loop above: an edge_label as long as edge_index goes with edge_label_index all the same.
    for name in _SUPERVISION:
        if name not in data:
            continue
        # A pair stays in the list as long as an edge of any relation stays between its nodes.
        key, columns = graph.pair_key(pair_tensor(data, name)), graph.pair_key(graph.edge_index)
        gone, there = columns[forget_mask], columns[~forget_mask]
        _keep_pairs(data, retain, name, ~torch.isin(key, gone) | torch.isin(key, there))

    for name in ("_slice_dict", "_inc_dict"):  # the old positions of each graph's edges in a batch
        retain.__dict__.pop(name, None)
    if "num_edges" in data:
        retain["num_edges"] = retain.edge_index.size(1)
    return retain


def _keep_pairs(source: Data, retain: Data, name: str, kept: Tensor) -> None:
    retain[name] = select_entries(source[name], kept, 1)
    for partner in _SUPERVISION.get(name, ()):
        if partner in source:
            retain[partner] = select_entries(source[partner], kept, 0)


def _blank_nodes(graph: TrainingGraph, retain: Data, nodes: Tensor) -> None:
    data = graph.data
    gone = torch.zeros(graph.num_nodes, dtype=torch.bool, device=nodes.device).index_fill_(0, nodes, True)
    for name in {*_HELD_OUT, *_SUPERVISION} & set(data.keys()):
        _keep_pairs(retain, retain, name, ~gone[pair_tensor(retain, name)].any(dim=0))
    probe = copy.copy(data)
    probe.num_nodes = graph.num_nodes
    per_node = [
        name
        for name in data.keys()  # noqa: SIM118 - iterating a Data yields pairs
        if name not in (*_STRUCTURE, "x", GONE)
        and not name.endswith("index")
        and probe.is_node_attr(name)
        and not _per_graph(data, name)
    ]
    _blank(retain, nodes, per_node)
    if data.get("x") is not None:
        retain.x = without_features(_features(data), ((nodes, None),))
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
            label = name in ("y", "node_id") and not value.is_floating_point() and value.dtype != torch.bool
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


def without_features(x: Tensor, blocks: tuple[tuple[Tensor, Tensor | None], ...]) -> Tensor:
    """Return a copy of dense or CSR features `[num_nodes, num_features]` without blocks of entries.

    A block is node ids `[k]` and columns `[c]`, `None` for all columns.
    """
    if x.layout == torch.strided:
        x = x.clone()
        for nodes, columns in blocks:
            x[nodes if columns is None else (nodes[:, None], columns[None, :])] = 0
        return x
    if x.layout != torch.sparse_csr:
        raise InvalidRequestError(f"Expected dense or CSR features 'data.x' (got {x.layout})")
    pointer, column = x.crow_indices(), x.col_indices()
    row = torch.repeat_interleave(torch.arange(x.size(0), device=x.device), pointer.diff())
    kept = torch.ones_like(column, dtype=torch.bool)
    for nodes, columns in blocks:
        hit = torch.zeros(x.size(0), dtype=torch.bool, device=x.device).index_fill(0, nodes, True)[row]
        if columns is not None:
            hit &= torch.zeros(x.size(1), dtype=torch.bool, device=x.device).index_fill(0, columns, True)[column]
        kept &= ~hit
    count = torch.bincount(row[kept], minlength=x.size(0)).to(pointer.dtype)
    pointer = torch.cat([pointer[:1], count.cumsum(0).to(pointer.dtype)])
    return torch.sparse_csr_tensor(pointer, column[kept], x.values()[kept], size=x.shape, check_invariants=False)


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
