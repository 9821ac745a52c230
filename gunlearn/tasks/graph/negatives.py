"""Random node pairs that stand for absent edges."""

import torch
from torch import Tensor

from gunlearn.errors import InvalidInputError
from gunlearn.nn.kernels.sorting import sort


class NegativeSampler:
    """Uniform ordered node pairs `u != v`, without known edges unless told otherwise.

    Args:
        edge_index: known edges `[2, num_edges]`, refused in the directions given.
        num_nodes: number of nodes.
        avoid_edges: `False` gives uniform pairs, whether they are edges or not.
        gone: nodes that no pair may hold, boolean `[num_nodes]`; `None` for none.

    Raises:
        InvalidInputError: fewer than two nodes, or a complete graph.
    """

    def __init__(
        self, edge_index: Tensor, num_nodes: int, avoid_edges: bool = True, gone: Tensor | None = None
    ) -> None:
        self.nodes = None if gone is None else (~gone[:num_nodes]).nonzero().view(-1).to(edge_index.device)
        room = num_nodes if self.nodes is None else self.nodes.numel()
        if room < 2:
            raise InvalidInputError(f"Expected at least 2 nodes to draw pairs from (got {room})")
        self.num_nodes, self.device = num_nodes, edge_index.device
        self.known = (edge_index[0] * num_nodes + edge_index[1]).unique() if avoid_edges else None
        if self.known is not None:
            row, col = self.known // num_nodes, self.known % num_nodes
            pairs = row != col
            if gone is not None:
                pairs &= ~(gone[row] | gone[col])
            if int(pairs.sum()) >= room * (room - 1):
                raise InvalidInputError("Expected a graph with absent edges to draw from (got a complete graph)")
            # Most pairs are no edges: one look-up in a table of the keys' last bits shows it.
            self.last_bits = 2 ** min(max(64 * self.known.numel(), 1).bit_length(), 27) - 1
            self.table = torch.zeros(self.last_bits + 1, dtype=torch.bool, device=self.device)
            self.table[self.known & self.last_bits] = True

    def sample(self, num_samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw pairs `[2, num_samples]`, ordered by row, which may repeat; by default from torch's global generator."""
        key = self._draw(num_samples, generator)
        while True:  # replace what was refused, until nothing is
            key = sort(key)  # sorted queries are found faster, and the pairs' CSR pattern needs this order anyway
            u = key // self.num_nodes
            v = key - u * self.num_nodes
            refused = self._refused(key, u == v)
            count = int(refused.sum())
            if count == 0:
                return torch.stack([u, v])
            key = torch.cat([key[~refused], self._draw(count, generator)])

    def _draw(self, size: int, generator: torch.Generator | None) -> Tensor:
        room = self.num_nodes if self.nodes is None else self.nodes.numel()
        u, v = torch.randint(room, (2, size), generator=generator, device=self.device)
        if self.nodes is not None:
            u, v = self.nodes[u], self.nodes[v]
        return u * self.num_nodes + v

    def _refused(self, key: Tensor, loop: Tensor) -> Tensor:
        if self.known is None or not self.known.numel():
            return loop
        suspect = self.table[key & self.last_bits].nonzero().view(-1)
        slot = torch.searchsorted(self.known, key[suspect]).clamp_(max=self.known.numel() - 1)
        loop[suspect] |= self.known[slot] == key[suspect]
        return loop
