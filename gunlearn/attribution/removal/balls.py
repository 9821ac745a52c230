"""The output rows that graph edits can change: for each item, a ball of nodes around it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from gunlearn.attribution.distinct_items import Items, starts
from gunlearn.attribution.removal.structure import Structure
from gunlearn.nn.kernels.subgraph import spans

ROWS_PER_BATCH = 1 << 16  # estimated beforehand; about ten MiB of intermediate results
_CELLS = 1 << 25  # cells of the lookup table (int32): items per batch times nodes


@dataclass
class Balls:
    """Pairs (item, node) that a batch of items can change: touched nodes first, then hop by hop.

    Attributes:
        node: node of each row `[num_rows]`.
        item: item of each row, in `[0, items.num_items)` `[num_rows]`.
        upto: number of rows within 0, 1, ... hops.
        ptr: start of each row's out-edges, for rows within all hops but the last.
        target: row at the other end of each out-edge.
        column: column of `edge_index` of each out-edge.
        removed: for each removed column that is no loop: the column, its target's row, its source's row.
        loops: for each removed loop: the column, the row.
        row_of: finds the rows of numbers `item * num_nodes + node`; -1 where there is none.
        lost: incoming weight that each touched row loses besides the removed columns, or `None`.
        incoming: what the touched rows' sums in the last layer gain besides computed changes, or `None`.
        delta: change of each sender's message in the last layer that ran `[num_senders, dim]`.
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
    row_of: Callable[[Tensor], Tensor]
    lost: Tensor | None = None
    incoming: Tensor | None = None
    delta: Tensor | None = None

    @property
    def hops(self) -> int:
        """Number of hops that the rows reach."""
        return len(self.upto) - 1

    def find(self, item: Tensor, node: Tensor) -> Tensor:
        """Return the row of each (item, node), -1 if there is none."""
        return self.row_of(item * self.structure.num_nodes + node)

    def spread(self, delta: Tensor, weight: Tensor | None, num_rows: int) -> Tensor:
        """Sum `delta` of the first rows, `[num_senders, dim]`, over out-edges to the first `num_rows` rows."""
        senders = delta.size(0)
        last = int(self.ptr[senders])
        target, column = self.target[:last], self.column[:last]
        values = torch.ones(last, dtype=delta.dtype, device=delta.device) if weight is None else weight[column]
        if delta.device.type == "cpu":  # already compressed by sender: the product needs no sorting
            index = target.numpy().astype(np.int32), self.ptr[: senders + 1].numpy().astype(np.int32)
            matrix = sp.csc_matrix((values.numpy(), *index), shape=(num_rows, senders))
            return torch.from_numpy(matrix @ delta.numpy())
        sender = torch.repeat_interleave(torch.arange(senders, device=delta.device), self.ptr[: senders + 1].diff())
        return delta.new_zeros(num_rows, delta.size(1)).index_add_(0, target, delta[sender] * values.view(-1, 1))


def ball_batches(
    items: Items, structure: Structure, hops: int, rows: int = ROWS_PER_BATCH
) -> Iterator[tuple[Tensor, Balls]]:
    """Yield batches of items with about `rows` rows: their indices, and their balls of `hops` hops."""
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
            table[balls.item * structure.num_nodes + balls.node] = -1


def sum_by_item(items: Items, structure: Structure, value: Tensor) -> Tensor:
    """Sum a value of nodes over the nodes that each item touches (ends of its edges count once per column)."""
    total = value.new_zeros(items.num_items)
    if items.of == "nodes":
        return value[items.ids] * items.column_ptr.diff().clamp(min=1).to(value)
    for end in structure.edge_index[:, items.column]:
        total.index_add_(0, items.column_item, value[end])
    return total.index_add_(0, items.entry_item, value[items.entry[0]])


def _balls(items: Items, structure: Structure, hops: int, table: Tensor | None) -> Balls:
    n, device = structure.num_nodes, structure.edge_index.device
    source, target = structure.edge_index[:, items.column]
    base = items.column_item * n
    ends = [base + source, base + target, items.entry_item * n + items.entry[0]]
    if items.of == "nodes":
        ends.append(torch.arange(items.num_items, device=device) * n + items.ids)
    touched = torch.cat(ends)
    if table is None:
        keys = torch.unique(touched)
        upto, counts, target_key, column = [keys.numel()], keys[:0], keys[:0], keys[:0]
    else:
        keys, upto, counts, target_key, column = _grow(touched, structure, hops, table)

    def row_of(key: Tensor) -> Tensor:
        if table is not None:
            return table[key].long()
        place = torch.searchsorted(keys, key).clamp_(max=max(keys.numel() - 1, 0))
        return torch.where(keys[place] == key, place, -1) if keys.numel() else torch.full_like(key, -1)

    loop = source == target
    proper = ~loop
    return Balls(
        items=items,
        structure=structure,
        node=keys % n,
        item=keys // n,
        upto=upto,
        ptr=starts(counts),
        target=row_of(target_key),
        column=column,
        removed=(items.column[proper], row_of((base + target)[proper]), row_of((base + source)[proper])),
        loops=(items.column[loop], row_of((base + source)[loop])),
        row_of=row_of,
    )


def _grow(
    touched: Tensor, structure: Structure, hops: int, table: Tensor
) -> tuple[Tensor, list[int], Tensor, Tensor, Tensor]:
    """Return the pairs (item, node) as numbers, their count within each hop, and all but the last hop's out-edges."""
    n, count = structure.num_nodes, 0
    found: list[Tensor] = []

    def add(key: Tensor) -> Tensor:
        """Give new (item, node) pairs rows, and return the new pairs, each once."""
        nonlocal count
        key = key[table[key] < 0]
        place = torch.arange(key.numel(), dtype=torch.int32, device=key.device)
        table[key] = place
        key = key[table[key] == place]  # one of several equal keys remains
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
