"""The random walk matrix `D^-1 A` of a graph, of which any rows can be read, and edges taken out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch_geometric.utils import add_remaining_self_loops

from gunlearn.core.sorting import lexsort, unique
from gunlearn.nn.kernels.sparse import check_indices, csr, csr_places, csr_tensor
from gunlearn.nn.kernels.subgraph import spans

_FEW = 1000


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Lists of sorted node ids, one per node: list `i` is `ids[pointer[i]:pointer[i + 1]]`."""

    pointer: Tensor
    ids: Tensor

    @classmethod
    def of(cls, node: Tensor, neighbour: Tensor, num_nodes: int) -> Neighbours:
        order = lexsort(node, neighbour)
        return cls(*csr_places(node[order], neighbour[order], (num_nodes, num_nodes)))

    def at(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the lists of some nodes one after the other, and the length of each."""
        place, count = spans(self.pointer, nodes)
        return self.ids[place], count

    def without(self, node: Tensor, neighbour: Tensor) -> Neighbours:
        """Return the lists without every copy of the given entries `[k]`; this object does not change."""
        nodes = node.unique()
        place, count = spans(self.pointer, nodes)
        size = self.pointer.numel()
        key = torch.repeat_interleave(nodes, count) * size + self.ids[place]
        gone = place[torch.isin(key, node * size + neighbour)]
        fewer = torch.zeros_like(self.pointer)
        owner = torch.searchsorted(self.pointer, gone.to(self.pointer.dtype), right=True)
        fewer.index_add_(0, owner, torch.ones_like(owner, dtype=fewer.dtype))
        return Neighbours(self.pointer - fewer.cumsum(0, dtype=fewer.dtype), _without(self.ids, gone.long()))

    def equal(self, other: Neighbours) -> bool:
        return torch.equal(self.pointer, other.pointer) and torch.equal(self.ids, other.ids)


@dataclass(frozen=True, eq=False)
class RandomWalk:
    """The matrix `D^-1 A`, every node with one self-loop; entry `(i, j)` is `1 / degree[i]` for each edge `j -> i`.

    Args:
        senders: of each node.
        receivers: likewise; the same object if the graph is undirected.
        degree: in-degrees `[num_nodes]`, double precision.
    """

    senders: Neighbours
    receivers: Neighbours
    degree: Tensor

    @classmethod
    def of(cls, edge_index: Tensor, num_nodes: int) -> RandomWalk:
        """Return the walk of a graph, at the cost of two sorts of its edges."""
        check_indices("edge_index", edge_index, num_nodes)
        source, target = add_remaining_self_loops(edge_index, num_nodes=num_nodes)[0]
        senders = Neighbours.of(target, source, num_nodes)
        receivers = Neighbours.of(source, target, num_nodes)
        degree = senders.pointer.diff().double()
        return cls(senders, senders if senders.equal(receivers) else receivers, degree)

    def without(self, edges: Tensor) -> RandomWalk:
        """Return the walk without the edges of some columns `[2, k]`, every copy of them; self-loops stay."""
        source, target = edges[:, edges[0] != edges[1]]
        senders = self.senders.without(target, source)
        forth, back = (unique(a * self.num_nodes + b) for a, b in ((source, target), (target, source)))
        symmetric = self.receivers is self.senders and torch.equal(forth, back)
        receivers = senders if symmetric else self.receivers.without(source, target)
        return RandomWalk(senders, receivers, senders.pointer.diff().double())

    @property
    def num_nodes(self) -> int:
        return self.degree.numel()

    def pattern(self) -> Tensor:
        """Return `A`, CSR `[num_nodes, num_nodes]`."""
        lists = self.senders
        size = (self.num_nodes, self.num_nodes)
        return csr_tensor(lists.pointer, lists.ids, torch.ones(lists.ids.numel()).to(self.degree), size)

    def reached(self, nodes: Tensor) -> Tensor:
        """Return sorted ids of `nodes` and of the nodes that receive from them."""
        return unique(self.receivers.at(nodes)[0].long())

    def gathers(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Return all senders of some nodes, sorted ids `[m]`, and the matrix from their rows to those of the nodes."""
        ids, count = self.senders.at(nodes)
        senders = unique(ids.long())
        pointer = torch.cat([count.new_zeros(1), count.cumsum(0)])
        value = torch.repeat_interleave(1 / self.degree[nodes], count)
        return senders, csr_tensor(
            pointer, torch.searchsorted(senders, ids.long()), value, (nodes.numel(), senders.numel())
        )

    def sends(self, nodes: Tensor, reached: Tensor) -> Tensor:
        """Return the matrix from rows of some nodes to rows of all their receivers, CSR `[num_reached, num_nodes]`.

        Of `reached` (sorted ids) receivers may be left out: their rows are left out, too.
        """
        ids, count = self.receivers.at(nodes)
        place = torch.searchsorted(reached, ids.long()).clamp_(max=max(reached.numel() - 1, 0))
        known = reached[place] == ids if reached.numel() else torch.zeros_like(ids, dtype=torch.bool)
        row, place = torch.repeat_interleave(torch.arange(nodes.numel(), device=ids.device), count)[known], place[known]
        return csr(place, row, 1 / self.degree[reached[place]], (reached.numel(), nodes.numel()))


def _without(values: Tensor, places: Tensor) -> Tensor:
    """Return `[n]` values without those at some places, sorted `[k]`."""
    if places.numel() < _FEW:  # pieces are copied at the speed of memory
        first, *rest = values.tensor_split(places.cpu())
        return torch.cat([first, *(piece[1:] for piece in rest)])
    keep = torch.ones(values.numel(), dtype=torch.bool, device=values.device).index_fill_(0, places, False)
    return values.masked_select(keep)
