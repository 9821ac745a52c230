"""A graph sorted by source and by target, for sums over neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from gunlearn.attribution.distinct_items import grouped
from gunlearn.nn.kernels.memo import memo
from gunlearn.nn.kernels.scatter import scatter


def structure_of(edge_index: Tensor, num_nodes: int) -> Structure:
    """Return the structure of a graph, computed once per `edge_index`."""
    return memo(edge_index, ("structure", num_nodes), lambda: Structure(edge_index.detach().clone(), num_nodes))


class Structure:
    """The graph without its loops, by source and by target."""

    def __init__(self, edge_index: Tensor, num_nodes: int) -> None:
        self.edge_index, self.num_nodes = edge_index, num_nodes
        source, target = edge_index
        self.proper = (source != target).nonzero().view(-1)
        self.loops = (source == target).nonzero().view(-1)
        source, target = source[self.proper], target[self.proper]
        order, self.out_ptr = grouped(source, num_nodes)
        self.out_node, self.out_column = target[order], self.proper[order]
        order, self.in_ptr = grouped(target, num_nodes)
        self.in_node, self.in_column = source[order], self.proper[order]

    def gather(self, weight: Tensor, x: Tensor) -> Tensor:
        """Sum the senders' rows of `x`, times `weight` `[num_edges]`, at each receiver, `[num_nodes, dim]`."""
        return _product(self.in_ptr, self.in_node, weight[self.in_column], x)

    def scatter(self, weight: Tensor, x: Tensor) -> Tensor:
        """Sum the receivers' rows of `x` at each sender, `[num_nodes, dim]`."""
        return _product(self.out_ptr, self.out_node, weight[self.out_column], x)

    def reach(self, hops: int) -> Tensor:
        """Return an upper bound of the rows that a change at each node reaches within `hops`, `[num_nodes]`."""
        count = torch.ones(self.num_nodes, device=self.edge_index.device)
        source, target = self.edge_index[:, self.proper]
        for _ in range(hops):
            spread = scatter(count[target], source, dim=0, dim_size=self.num_nodes, reduce="sum")
            count = (count + spread).clamp(max=self.num_nodes)
        return count


def _product(ptr: Tensor, index: Tensor, value: Tensor, x: Tensor) -> Tensor:
    n = ptr.numel() - 1
    return torch.sparse_csr_tensor(ptr.int(), index.int(), value, size=(n, n), check_invariants=False) @ x
