"""Which rows of a model's outputs an edit of the graph can change, for many edits at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from gunlearn.attribution.distinct_items import Items
from gunlearn.nn.kernels.memo import memo
from gunlearn.nn.kernels.scatter import scatter
from gunlearn.nn.kernels.sorting import argsort
from gunlearn.nn.kernels.subgraph import spans

ROWS = 1 << 16  # rows per batch, as far as they can be foreseen: some ten MiB of intermediate results
_CELLS = 1 << 25  # cells of the lookup table (int32): items per batch times nodes


def structure_of(edge_index: Tensor, num_nodes: int) -> Structure:
    """The structure of a graph, kept as long as its `edge_index` lives unchanged."""
    return memo(edge_index, ("structure", num_nodes), lambda: Structure(edge_index.detach().clone(), num_nodes))


class Structure:
    """The graph without its loops, by source and by target.

    Args:
        edge_index: `[2, num_edges]`.
        num_nodes: number of nodes.
    """

    def __init__(self, edge_index: Tensor, num_nodes: int) -> None:
        self.edge_index, self.num_nodes = edge_index, num_nodes
        source, target = edge_index
        self.proper = (source != target).nonzero().view(-1)
        self.loops = (source == target).nonzero().view(-1)
        source, target = source[self.proper], target[self.proper]
        by_source, by_target = argsort(source, stable=True), argsort(target, stable=True)
        self.out_ptr, self.out_node, self.out_column = _grouped(source, target, self.proper, by_source, num_nodes)
        self.in_ptr, self.in_node, self.in_column = _grouped(target, source, self.proper, by_target, num_nodes)

    def gather(self, weight: Tensor, x: Tensor) -> Tensor:
        """Weighted sum of what senders hold, `[num_nodes, dim]`; `weight` `[num_edges]` by column."""
        return _product(self.in_ptr, self.in_node, weight[self.in_column], x)

    def scatter(self, weight: Tensor, x: Tensor) -> Tensor:
        """Weighted sum of what receivers hold, `[num_nodes, dim]`."""
        return _product(self.out_ptr, self.out_node, weight[self.out_column], x)

    def reach(self, hops: int) -> Tensor:
        """At most how many rows a change at each node reaches in so many hops, `[num_nodes]`."""
        count = torch.ones(self.num_nodes, device=self.edge_index.device)
        for _ in range(hops):
            spread = scatter(
                count[self.edge_index[1, self.proper]],
                self.edge_index[0, self.proper],
                dim=0,
                dim_size=self.num_nodes,
                reduce="sum",
            )
            count = (count + spread).clamp(max=self.num_nodes)
        return count


def _product(ptr: Tensor, index: Tensor, value: Tensor, x: Tensor) -> Tensor:
    n = ptr.numel() - 1
    return torch.sparse_csr_tensor(ptr.int(), index.int(), value, size=(n, n), check_invariants=False) @ x


def _grouped(key: Tensor, other: Tensor, column: Tensor, order: Tensor, num_nodes: int) -> tuple[Tensor, ...]:
    count = torch.bincount(key, minlength=num_nodes)
    return torch.cat([count.new_zeros(1), count.cumsum(0)]), other[order], column[order]


@dataclass
class Balls:
    """Pairs (item, node) that a batch of items can change: first those it touches, then hop by hop.

    Attributes:
        items: the batch.
        structure: the graph.
        node: node of each row `[num_rows]`.
        item: whose row it is, in `[0, items.num_items)` `[num_rows]`.
        upto: number of rows within 0, 1, ... hops.
        ptr: where the out-edges of each row within all hops but the last begin.
        target: row at the other end of each out-edge.
        column: its column of `edge_index`.
        removed: per column taken out, without loops: column, rows of its target and its source.
        loops: per loop taken out: column, row.
        table: row of (item, node) by `item * num_nodes + node`, int32, -1 where there is none; without one, rows are in
            the order of those numbers.
        lost: incoming weight that each touched row loses beyond what is taken out, or `None`.
        incoming: what the last layer's sums of the touched rows gain beyond what is computed, or `None`.
        delta: change of what each sender sent in the last layer that ran `[num_senders, dim]`.
    """

    items: Items
    structure: Structure
    node: Tensor
    item: Tensor
    upto: list[int]
    ptr: Tensor
    target: Tensor
    column: Tensor
    removed: tuple[Tensor, Tensor, Tensor]
    loops: tuple[Tensor, Tensor]
    table: Tensor | None
    lost: Tensor | None = None
    incoming: Tensor | None = None
    delta: Tensor | None = None

    @property
    def hops(self) -> int:
        """How far the rows reach."""
        return len(self.upto) - 1

    def find(self, item: Tensor, node: Tensor) -> Tensor:
        """Row of each (item, node), -1 where there is none."""
        key = item * self.structure.num_nodes + node
        return self.table[key].long() if self.table is not None else _find(self._keys(), key)

    def _keys(self) -> Tensor:
        return self.item * self.structure.num_nodes + self.node

    def spread(self, delta: Tensor, weight: Tensor | None, num_rows: int) -> Tensor:
        """Sum over out-edges: `delta` of the first rows, `[num_senders, dim]`, to the first `num_rows` rows."""
        senders = delta.size(0)
        last = int(self.ptr[senders])
        target, column = self.target[:last], self.column[:last]
        values = torch.ones(last, dtype=delta.dtype, device=delta.device) if weight is None else weight[column]
        if delta.device.type == "cpu":  # compressed by sender as it is: the product needs no sorting
            index = target.numpy().astype(np.int32), self.ptr[: senders + 1].numpy().astype(np.int32)
            matrix = sp.csc_matrix((values.numpy(), *index), shape=(num_rows, senders))
            return torch.from_numpy(matrix @ delta.numpy())
        sender = torch.repeat_interleave(torch.arange(senders, device=delta.device), self.ptr[: senders + 1].diff())
        return delta.new_zeros(num_rows, delta.size(1)).index_add_(0, target, delta[sender] * values.view(-1, 1))


def batches(items: Items, structure: Structure, hops: int, rows: int = ROWS) -> Iterator[tuple[Tensor, Balls]]:
    """Balls of all items, batch by batch: which items, and their rows.

    Args:
        items: what is taken out.
        structure: the graph.
        hops: how far a change travels.
        rows: rows per batch, as far as they can be foreseen.
    """
    reach = structure.reach(hops)
    size = sum_by_item(items, structure, reach).clamp(1, structure.num_nodes).cpu()
    limit = max(_CELLS // max(structure.num_nodes, 1), 1)
    number = (size.double().cumsum(0) / rows).long()
    number = number + torch.arange(size.numel()) // limit  # so that no batch exceeds the table
    counts = torch.unique_consecutive(number, return_counts=True)[1]
    table = None
    if hops:
        cells = int(counts.max()) * structure.num_nodes
        table = torch.full((cells,), -1, dtype=torch.int32, device=reach.device)
    for index in torch.arange(size.numel(), device=reach.device).split(counts.tolist()):
        balls = _balls(items.take(index), structure, hops, table)
        yield index, balls
        if table is not None:
            table[balls._keys()] = -1


def sum_by_item(items: Items, structure: Structure, value: Tensor) -> Tensor:
    """Sum of a node's value over the nodes that each item touches (end points of its edges count once per column)."""
    total = value.new_zeros(items.num_items)
    if items.of == "nodes":
        return value[items.ids] * items.column_ptr.diff().clamp(min=1).to(value)
    for end in structure.edge_index[:, items.column]:
        total.index_add_(0, items.column_item, value[end])
    return total.index_add_(0, items.entry_item, value[items.entry[0]])


def _find(keys: Tensor, key: Tensor) -> Tensor:
    place = torch.searchsorted(keys, key).clamp_(max=max(keys.numel() - 1, 0))
    return torch.where(keys[place] == key, place, -1) if keys.numel() else torch.full_like(key, -1)


def _balls(items: Items, structure: Structure, hops: int, table: Tensor | None) -> Balls:
    n, device = structure.num_nodes, structure.edge_index.device

    source, target = structure.edge_index[:, items.column]
    base = items.column_item * n
    touched = [base + source, base + target, items.entry_item * n + items.entry[0]]
    if items.of == "nodes":
        touched.append(torch.arange(items.num_items, device=device) * n + items.ids)
    touched = torch.cat(touched)
    if table is None:
        keys = torch.unique(touched)
        upto, counts, target_key, column = [keys.numel()], keys[:0], keys[:0], keys[:0]
    else:
        keys, upto, counts, target_key, column = _grow(touched, structure, hops, table)

    def row(key: Tensor) -> Tensor:
        return _find(keys, key) if table is None else table[key].long()

    loop = source == target
    proper = ~loop
    return Balls(
        items=items,
        structure=structure,
        node=keys % n,
        item=keys // n,
        upto=upto,
        ptr=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        target=row(target_key),
        column=column,
        removed=(items.column[proper], row((base + target)[proper]), row((base + source)[proper])),
        loops=(items.column[loop], row((base + source)[loop])),
        table=table,
    )


def _grow(touched: Tensor, structure: Structure, hops: int, table: Tensor) -> tuple[Tensor, list[int], Tensor, ...]:
    """Hop by hop: (item, node) as one number each, how many within each hop, and the out-edges of all but the last."""
    n, found, count = structure.num_nodes, [], 0

    def add(key: Tensor) -> Tensor:
        """Give new (item, node) pairs rows, and return the pairs that are new, each once."""
        nonlocal count
        key = key[table[key] < 0]
        place = torch.arange(key.numel(), dtype=torch.int32, device=key.device)
        table[key] = place
        key = key[table[key] == place]  # one of several equal ones won
        table[key] = torch.arange(count, count + key.numel(), dtype=torch.int32, device=key.device)
        count += key.numel()
        found.append(key)
        return key

    frontier = add(touched)
    upto, counts, targets, columns = [count], [], [], []
    for _ in range(hops):
        place, degree = spans(structure.out_ptr, frontier % n)
        key = torch.repeat_interleave(frontier - frontier % n, degree) + structure.out_node[place]
        frontier = add(key)
        counts.append(degree)
        targets.append(key)
        columns.append(structure.out_column[place])
        upto.append(count)
    return torch.cat(found), upto, torch.cat(counts), torch.cat(targets), torch.cat(columns)
