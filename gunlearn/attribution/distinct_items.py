"""The items whose influence is asked for, as edits of the graph: edges taken out, feature entries set to zero."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.data import Data

from gunlearn.core.sorting import argsort
from gunlearn.nn.kernels.subgraph import spans
from gunlearn.requests.apply import data_without
from gunlearn.requests.entries import select_entries
from gunlearn.requests.selection import Selection
from gunlearn.requests.training_graph import TrainingGraph

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
        return owner(self.column_ptr)

    @property
    def entry_item(self) -> Tensor:
        """Item of each zeroed entry, `[num_entries]`."""
        return owner(self.entry_ptr)

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
    gone = torch.isin(owner(x.crow_indices()) * x.shape[1] + x.col_indices(), row * x.shape[1] + col)
    values = x.values().masked_fill(gone, 0.0)
    return torch.sparse_csr_tensor(x.crow_indices(), x.col_indices(), values, size=x.shape, check_invariants=False)


def plain_edges(data: Data) -> Data:
    """Return the data with a plain tensor in place of an `EdgeIndex`, whose caches hold for one graph only."""
    if isinstance(data.edge_index, EdgeIndex):
        data = copy.copy(data)
        data.edge_index = data.edge_index.as_tensor()
    return data


def grouped(key: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return an order that groups keys in `[0, size)`, and the start of each group `[size + 1]`."""
    return argsort(key, stable=True), starts(torch.bincount(key, minlength=size))


def starts(count: Tensor) -> Tensor:
    """Return the start of each group, given the group sizes, and the end of the last."""
    return torch.cat([count.new_zeros(1), count.cumsum(0)])


def owner(pointer: Tensor) -> Tensor:
    """Return the group of each entry, given the start of each group and the end of the last."""
    count = pointer.diff()
    return torch.repeat_interleave(torch.arange(count.numel(), device=count.device), count)
