"""Take a selection out of a graph; the rest is what a model may learn from and be used on.

- An **edge** leaves every list that holds it (see `list_names` and `nested`) and every adjacency matrix (see
  `adjacency`), both directions and all copies, with its attributes; lists of positions of edges are counted anew.
- A **node** keeps its number, so that the caller's ids stay right, and loses all else: its edges, its row of `x`
  (zeros), its label (-1; zeros where `y` does not hold integers), its place in every mask, its row of every other node
  attribute (zeros; -1 in integers named `*_id`), its place in every list of nodes, and the pairs that it is an end of.
  Nothing is trained or evaluated on it.
- **Features** become zeros; the node keeps label and edges. CSR features lose the entries themselves, since a stored
  zero would still reveal where they were. Integers that number the nodes (`x = arange(num_nodes)`) are no features:
  they stay, and say nothing, as a column of row numbers beside other features does. See `features`.
- A **graph** of a batch loses all its nodes in that way, its label and its place in the masks.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gunlearn.core.sorting import places
from gunlearn.errors import InvalidRequestError
from gunlearn.requests.adjacency import is_adjacency, without_entries_of
from gunlearn.requests.blanks import blanked
from gunlearn.requests.compressed import compressed_without
from gunlearn.requests.edge_positions import edge_pointers, is_changed, position_lists, renumbered, unclear_positions
from gunlearn.requests.entries import entries_without, select_entries
from gunlearn.requests.features import features_without
from gunlearn.requests.forgotten import Forgotten
from gunlearn.requests.graph_tensors import GONE, MASKS, num_graphs
from gunlearn.requests.list_names import numbers_other_things
from gunlearn.requests.list_partners import NamedList, runs_along_a_list, with_partners
from gunlearn.requests.neighbor_tables import neighbors_without
from gunlearn.requests.nested import is_nested, nested_without
from gunlearn.requests.pair_lists import kept_entries, named_lists
from gunlearn.requests.selection import Selection
from gunlearn.requests.training_graph import TrainingGraph
from gunlearn.requests.unclear import warn_of_unclear

if TYPE_CHECKING:
    from torch_geometric.data import Data

# What is known: it is looked at by name, or says nothing of any one node.
_KNOWN = (
    *("x", "y", "pos", "edge_index", "edge_attr", "edge_weight", "edge_type", "node_id", "num_nodes", "num_edges"),
    *("batch", "ptr", "node_type", "n_id", "e_id", "face", "adj", "adj_t", "norm", GONE, *MASKS),
)
_STRUCTURE = ("batch", "ptr", "node_type", "n_id")  # where a node is, not what it is


def data_without(graph: TrainingGraph, selection: Selection) -> Data:
    """Return a shallow copy of the graph's data without a closed selection; unchanged tensors are shared."""
    data = graph.data
    retain, listed = _without_edges(graph, selection)
    if selection.nodes.numel():
        _blank_nodes(graph, retain, selection.nodes, listed)
    if selection.graphs.numel():
        _blank(retain, selection.graphs, [name for name in ("y", *MASKS) if _per_graph(data, name)])
    if selection.features or (selection.nodes.numel() and data.get("x") is not None):
        retain.x = features_without(_features(retain), selection, data.get("node_type"), graph.copy_of_features)
    return retain


def _without_edges(graph: TrainingGraph, selection: Selection) -> tuple[Data, set[str]]:
    """Return the data without edges, and the names of lists of pairs, nodes and edges."""
    data, forgotten = graph.data, Forgotten(graph, selection)
    retain = copy.copy(data)
    # Fixed, because PyG may infer the number of nodes from edge_index, which has fewer edges now.
    retain.num_nodes = graph.num_nodes
    values = {name: data[name] for name in data.keys()}  # noqa: SIM118 - iterating a Data yields pairs
    sizes = [graph.num_nodes, graph.num_columns]
    if isinstance(data.get("batch"), Tensor):
        sizes.append(num_graphs(data))
    compressed = compressed_without(values, forgotten, "data.")
    for name in set(values) - {*compressed, *_KNOWN}:
        neighbors = neighbors_without(name, values[name], forgotten)
        compressed |= {} if neighbors is None else {name: neighbors}
    values = {name: value for name, value in values.items() if name not in compressed}
    found = named_lists(values, forgotten, sizes)
    listed = {name for one in found for name in (one.name, *one.partners)}
    positions = position_lists(values, graph.num_columns, listed)
    others = listed | set(positions)
    per_edge = [
        name
        for name in edge_attributes(graph)
        if name not in others
        and name not in compressed
        and not numbers_other_things(name)
        and not runs_along_a_list(name, graph.num_columns, found)
    ]
    for name in per_edge:
        kept_values = select_entries(data[name], forgotten.kept, data.__cat_dim__(name, data[name]))
        positions_of = edge_pointers(name, data[name], graph.edge_index, forgotten.kept)
        retain[name] = kept_values if positions_of is None else positions_of
    for name, value in compressed.items():
        if value is not data[name]:
            retain[name] = value
    retain.edge_index = entries_without(graph.edge_index, selection.columns, 1)

    # After the loop above: an edge_label as long as edge_index goes with edge_label_index all the same.
    as_lists = [*found, *(NamedList(name, ids[None], 0) for name, ids in positions.items())]
    unclear = unclear_positions(values, graph.num_columns, listed | set(positions) | set(per_edge))
    lists = with_partners(values, sizes, [*per_edge, *unclear], as_lists, "batch" not in data)
    # Lists of triples that show which columns are ends come first: others are read as they are.
    triples = {
        one.name: forgotten.read_triples(one.ids) for one in lists if one.sure and not one.cells and one.ids.size(0) > 2
    }
    readings = {ends for ends in triples.values() if ends is not None}
    forgotten.reading = readings.pop() if len(readings) == 1 else None
    for one in lists:
        if one.name in positions:
            new, kept = renumbered(data[one.name], positions[one.name], forgotten.kept)
            if is_changed(data[one.name], new):
                retain[one.name] = new
        else:
            kept = kept_entries(one, forgotten, f"data.{one.name}")
            if not bool(kept.all()):
                retain[one.name] = select_entries(data[one.name], kept, one.dim)
        if not bool(kept.all()):
            for partner in one.partners:
                retain[partner] = select_entries(data[partner], kept, 0)
    listed, whole = {name for one in lists for name in (one.name, *one.partners)}, set()
    for name, value in values.items():
        if name not in listed and name not in per_edge and is_nested(value):
            retain[name] = nested_without(name, value, forgotten, f"data.{name}")
        if name not in listed and name not in per_edge:
            inner, certain = _graphs_without(retain[name], selection, forgotten)
            retain[name] = inner
            whole |= {name} if certain else set()
    without_entries_of(data, retain, forgotten)
    left = {name: retain[name] for name in values}
    warn_of_unclear(left, forgotten, {*listed, *per_edge, *whole, *_KNOWN}, unclear)
    for name in ("_slice_dict", "_inc_dict"):  # the old positions of each graph's edges in a batch
        retain.__dict__.pop(name, None)
    if "num_edges" in data:
        retain["num_edges"] = retain.edge_index.size(1)
    return retain, listed | set(compressed)


def _graphs_without(value: Any, selection: Selection, forgotten: Forgotten) -> tuple[Any, bool]:
    """Return a graph inside the data, or a list or dict of such, without a selection, and whether all were so read.

    They are read where they have the same nodes and no other edges.
    """
    if isinstance(value, dict) and value:
        parts = [_graphs_without(part, selection, forgotten) for part in value.values()]
        changed = any(new is not old for (new, _), old in zip(parts, value.values(), strict=True))
        whole = dict(zip(value, (new for new, _ in parts), strict=True))
        return (whole if changed else value), all(certain for _, certain in parts)
    if isinstance(value, (list, tuple)) and value and hasattr(type(value[0]), "is_edge_attr"):
        parts = [_graphs_without(part, selection, forgotten) for part in value]
        return type(value)(new for new, _ in parts), all(certain for _, certain in parts)
    index = value.get("edge_index") if hasattr(type(value), "is_edge_attr") else None
    if not isinstance(index, Tensor) or value.num_nodes != forgotten.graph.num_nodes or not index.numel():
        return value, False
    if index.dtype != torch.long or index.dim() != 2 or not bool(forgotten.is_edge(index).all()):
        return value, False
    gone = (forgotten.pairs_go(index, of_any=True)[0] | forgotten.ends_go(index)).to(index.device)
    x, own = forgotten.graph.data.get("x"), value.get("x")
    same = isinstance(x, Tensor) and isinstance(own, Tensor) and own.shape == x.shape
    features = selection.features if same else ()
    return data_without(TrainingGraph(value), Selection(places(gone), selection.nodes, features)), True


def _blank_nodes(graph: TrainingGraph, retain: Data, nodes: Tensor, listed: set[str]) -> None:
    data = graph.data
    gone = torch.zeros(graph.num_nodes, dtype=torch.bool, device=nodes.device).index_fill_(0, nodes, True)
    probe = copy.copy(data)
    probe.num_nodes = graph.num_nodes
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
        retain[name] = blanked(name, retain[name], rows)


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


def edge_attributes(graph: TrainingGraph) -> list[str]:
    """Return the names of the attributes that are as long as edge_index, by PyG's own rule; lists may be among them."""
    # `is_edge_attr` caches its answers on its object: ask a copy, whose cache is new.
    data, probe = graph.data, copy.copy(graph.data)
    probe.num_nodes = graph.num_nodes
    # With as many nodes as edges PyG decides by the name of a tensor, but not of a list.
    by_name = graph.num_nodes == graph.num_columns
    return [
        name
        for name in data.keys()  # noqa: SIM118 - iterating a Data yields pairs
        if name != "edge_index" and probe.is_edge_attr(name) and (not by_name or "edge" in name)
    ]
