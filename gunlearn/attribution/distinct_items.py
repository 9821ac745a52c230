"""The items whose influence is asked for, as edits of the graph: edges taken out, feature entries set to zero."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.data import Data

from gunlearn.core.sorting import argsort
from gunlearn.errors import InvalidInputError
from gunlearn.nn.kernels.memo import memo
from gunlearn.nn.kernels.subgraph import spans
from gunlearn.requests.apply import data_without
from gunlearn.requests.entries import select_entries
from gunlearn.requests.selection import Selection
from gunlearn.requests.training_graph import TrainingGraph, same_both_ways

ITEM_KINDS = ("edges", "nodes", "features")


@dataclass(frozen=True)
class Items:
    """Distinct items, each an edit of the graph.

    - An **edge** removes every column of its pair, in an undirected graph (symmetric `edge_index`) of both directions.
    - A **node** loses all its edges, to and from it; a distance leaves its own output out.
    - A **feature** sets a column of `x` to zero for every node, or the entry of one node.

    Attributes:
        of: `"edges"`, `"nodes"` or `"features"`.
        ids: `[2, num_items]` for edges (smaller id of an undirected edge first) and single entries (node, column), else
            `[num_items]`.
        column: removed columns of `edge_index`, grouped by item `[num_taken]`.
        column_ptr: start of each item's columns in `column` `[num_items + 1]`.
        entry: row and column of the entries of `x` set to zero, grouped by item `[2, num_entries]`.
        entry_ptr: start of each item's entries in `entry` `[num_items + 1]`.
        per_node: outputs and labels are of nodes, not of whole graphs.
    """

    of: str
    num_items: int
    num_nodes: int
    ids: Tensor
    column: Tensor
    column_ptr: Tensor
    entry: Tensor
    entry_ptr: Tensor
    per_node: bool = True

    @property
    def column_item(self) -> Tensor:
        """Item of each removed column, `[num_taken]`."""
        return _owner(self.column_ptr)

    @property
    def entry_item(self) -> Tensor:
        """Item of each zeroed entry, `[num_entries]`."""
        return _owner(self.entry_ptr)

    @property
    def own_row(self) -> Tensor | None:
        """Each item's own output row, `[num_items]`, for nodes; `None` for other items, and outputs of whole graphs."""
        return self.ids if self.of == "nodes" and self.per_node else None

    def take(self, index: Tensor) -> Items:
        """Return some of the items, in the order of `index`."""
        (column, num_columns), (entry, num_entries) = spans(self.column_ptr, index), spans(self.entry_ptr, index)
        return replace(
            self,
            num_items=index.numel(),
            ids=self.ids[..., index],
            column=self.column[column],
            column_ptr=starts(num_columns),
            entry=self.entry[:, entry],
            entry_ptr=starts(num_entries),
        )

    def edited(self, data: Data, i: int) -> Data:
        """Return a new graph without item `i`; labels (held-out and training edges) stay."""
        out = copy.copy(data)
        column = self.column[self.column_ptr[i] : self.column_ptr[i + 1]]
        if column.numel():
            keep = torch.ones(data.edge_index.size(1), dtype=torch.bool, device=data.edge_index.device)
            keep[column] = False
            for key in data.keys():  # noqa: SIM118
                # Held-out and training edges are labels, not messages, even where the counts agree.
                label = key.endswith("edge_index") and key != "edge_index"
                if not label and isinstance(data[key], Tensor) and data.is_edge_attr(key):
                    out[key] = select_entries(data[key], keep, data.__cat_dim__(key, data[key]))
        entry = self.entry[:, self.entry_ptr[i] : self.entry_ptr[i + 1]]
        if entry.numel():
            out.x = without_entries(data.x, *entry)
        out.num_nodes = data.num_nodes
        return out

    def without(self, data: Data, index: Tensor) -> Data:
        """Return a new training graph without several items: edges leave every list of training edges too."""
        taken = self.take(index)
        gone = torch.zeros(data.edge_index.size(1), dtype=torch.bool, device=data.edge_index.device)
        gone[taken.column] = True
        out = copy.copy(data)
        if gone.any():
            graph = TrainingGraph(data)
            out = data_without(graph, Selection.of(graph, gone))
        if taken.entry.numel():
            out.x = without_entries(data.x, *taken.entry)
        return out


def without_entries(x: Tensor, row: Tensor, col: Tensor) -> Tensor:
    """Return a copy of dense or CSR features in which these entries are zero."""
    if x.layout == torch.strided:
        return x.index_put((row, col), torch.zeros((), dtype=x.dtype, device=x.device))
    gone = torch.isin(_owner(x.crow_indices()) * x.shape[1] + x.col_indices(), row * x.shape[1] + col)
    values = x.values().masked_fill(gone, 0.0)
    return torch.sparse_csr_tensor(x.crow_indices(), x.col_indices(), values, size=x.shape, check_invariants=False)


def plain_edges(data: Data) -> Data:
    """Return the data with a plain tensor in place of an `EdgeIndex`, whose caches hold for one graph only."""
    if isinstance(data.edge_index, EdgeIndex):
        data = copy.copy(data)
        data.edge_index = data.edge_index.as_tensor()
    return data


def standing_still(nodes: Tensor, num_nodes: int) -> Items:
    """Return one item per node `[k]` that changes nothing."""
    return _items("nodes", num_nodes, nodes)


def resolve_items(data: Data, of: str, items: Any = None) -> tuple[Items, Tensor]:
    """Return the distinct items, and the place among them of each item asked for `[k]`.

    Args:
        data: the graph.
        of: `"edges"`, `"nodes"` or `"features"`.
        items: edges `[2, k]`, nodes `[k]`, columns of `x` `[k]`, or single entries of `x` (node, column) `[2, k]`;
            `None` for every column of `edge_index`, every node, every column of `x`.

    Raises:
        InvalidInputError: an unknown kind, items outside the graph, or no items.
    """
    data = plain_edges(data)
    if of not in ITEM_KINDS:
        raise InvalidInputError(f"Expected influence of one of {ITEM_KINDS} (got {of!r})")
    if items is not None:
        try:
            items = torch.as_tensor(items, device=data.edge_index.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidInputError(f"Expected items as integers (got {type(items).__name__}: {error})") from error
        if items.is_floating_point() or items.dtype == torch.bool:
            raise InvalidInputError(f"Expected items as integers (got {items.dtype})")
        if items.numel() == 0:
            raise InvalidInputError(f"Expected at least one item among {of} (got none)")
        items = items.long()
    return {"edges": _edges, "nodes": _nodes, "features": _features}[of](data, items)


def _edges(data: Data, items: Tensor | None) -> tuple[Items, Tensor]:
    edge_index, n = data.edge_index, int(data.num_nodes)
    if edge_index.numel() == 0:
        raise InvalidInputError("Expected a graph with edges (got none)")
    row, col = edge_index
    undirected = memo(edge_index, ("undirected", n), lambda: same_both_ways(row * n + col, col * n + row))
    if items is None:
        items = edge_index
    elif items.dim() != 2 or items.size(0) != 2:
        raise InvalidInputError(f"Expected edges of shape [2, k] (got {tuple(items.shape)})")
    check_range(items, n, "nodes of the edges")

    def key(pairs: Tensor) -> Tensor:
        low, high = (pairs.min(dim=0).values, pairs.max(dim=0).values) if undirected else pairs
        return low * n + high

    wanted, place = torch.unique(key(items), return_inverse=True)
    graph = key(edge_index)
    missing = ~torch.isin(wanted, graph)
    if bool(missing.any()):
        first = wanted[missing][:5]
        pairs = list(zip((first // n).tolist(), (first % n).tolist(), strict=True))
        raise InvalidInputError(
            f"Expected edges of the graph (got {int(missing.sum())} that it does not have: {pairs})"
        )
    column = torch.isin(graph, wanted).nonzero().view(-1)
    item = torch.searchsorted(wanted, graph[column])
    return _items("edges", n, torch.stack([wanted // n, wanted % n]), columns=(column, item)), place


def _nodes(data: Data, items: Tensor | None) -> tuple[Items, Tensor]:
    n = int(data.num_nodes)
    items = torch.arange(n, device=data.edge_index.device) if items is None else items
    if items.dim() != 1:
        raise InvalidInputError(f"Expected nodes of shape [k] (got {tuple(items.shape)})")
    check_range(items, n, "nodes")
    wanted, place = torch.unique(items, return_inverse=True)
    position = _position(wanted, n)
    (source, target), columns = data.edge_index, torch.arange(data.edge_index.size(1), device=wanted.device)
    loops = source == target
    item, column = torch.cat([position[source], position[target[~loops]]]), torch.cat([columns, columns[~loops]])
    return _items("nodes", n, wanted, columns=(column[item >= 0], item[item >= 0])), place


def _features(data: Data, items: Tensor | None) -> tuple[Items, Tensor]:
    x = data.x
    if not isinstance(x, Tensor) or x.dim() != 2:
        raise InvalidInputError("Expected features 'x' of shape [num_nodes, num_features] (got none)")
    n, num_features = x.shape
    items = torch.arange(num_features, device=data.edge_index.device) if items is None else items
    if items.dim() == 2 and items.size(0) == 2:  # single entries
        check_range(items[0], n, "nodes")
        check_range(items[1], num_features, "feature columns")
        key, place = torch.unique(items[0] * num_features + items[1], return_inverse=True)
        entry = torch.stack([key // num_features, key % num_features])
        return _items("features", n, entry, entries=(entry, torch.arange(key.numel(), device=key.device))), place
    if items.dim() != 1:
        raise InvalidInputError(f"Expected columns [k] or entries (node, column) [2, k] (got {tuple(items.shape)})")
    check_range(items, num_features, "feature columns")
    wanted, place = torch.unique(items, return_inverse=True)
    entry = x.nonzero().t() if x.layout == torch.strided else torch.stack([_owner(x.crow_indices()), x.col_indices()])
    item = _position(wanted, num_features)[entry[1]]
    return _items("features", n, wanted, entries=(entry[:, item >= 0], item[item >= 0])), place


def _position(wanted: Tensor, size: int) -> Tensor:
    """Return the place in `wanted` of each id in `[0, size)`, -1 for missing ids."""
    position = torch.full((size,), -1, device=wanted.device)
    position[wanted] = torch.arange(wanted.numel(), device=wanted.device)
    return position


def _items(
    of: str,
    num_nodes: int,
    ids: Tensor,
    columns: tuple[Tensor, Tensor] | None = None,
    entries: tuple[Tensor, Tensor] | None = None,
) -> Items:
    """Return the items `ids`; `columns` and `entries` hold what is removed, and its item."""
    none, num_items = torch.empty(0, dtype=torch.long, device=ids.device), ids.size(-1)
    (column, column_item), (entry, entry_item) = columns or (none, none), entries or (none.view(2, 0), none)
    by_column, column_ptr = grouped(column_item, num_items)
    by_entry, entry_ptr = grouped(entry_item, num_items)
    return Items(of, num_items, num_nodes, ids, column[by_column], column_ptr, entry[:, by_entry], entry_ptr)


def grouped(key: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return an order that groups keys in `[0, size)`, and the start of each group `[size + 1]`."""
    return argsort(key, stable=True), starts(torch.bincount(key, minlength=size))


def starts(count: Tensor) -> Tensor:
    """Return the start of each group, given the group sizes, and the end of the last."""
    return torch.cat([count.new_zeros(1), count.cumsum(0)])


def _owner(pointer: Tensor) -> Tensor:
    count = pointer.diff()
    return torch.repeat_interleave(torch.arange(count.numel(), device=count.device), count)


def check_range(ids: Tensor, limit: int, what: str) -> None:
    """Refuse ids outside `[0, limit)`."""
    outside = ids[(ids < 0) | (ids >= limit)]
    if outside.numel():
        raise InvalidInputError(f"Expected {what} in [0, {limit}) (got {outside[:5].tolist()})")
