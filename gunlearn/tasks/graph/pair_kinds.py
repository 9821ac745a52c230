"""Kinds of node pairs, by the types of their ends: how many of each are no edges, and which."""

import torch
from torch import Tensor

#: Of a kind with fewer absent pairs than this share of all, absent pairs are listed and not looked for at random.
CROWDED = 0.25


class PairKinds:
    """Ordered pairs of different nodes by the types of their ends; the kind of `(u, v)` is `type(u) * types + type(v)`.

    Args:
        num_nodes: number of nodes.
        node_type: of each node, integers from 0 `[num_nodes]`; `None` for one type.
        nodes: nodes that pairs may hold, sorted ids `[k]`; `None` for all.
        known: sorted keys `u * num_nodes + v` of pairs that are edges; `None` to count and list all pairs as absent.
        device: of the nodes.

    Attributes:
        typed: there are several types.
        all: the kinds, `[num_kinds]`.
        free: number of absent pairs of each kind, `[num_kinds]`.
        crowded: which kinds have so few absent pairs that these are better listed, boolean `[num_kinds]`.
    """

    def __init__(
        self,
        num_nodes: int,
        node_type: Tensor | None,
        nodes: Tensor | None,
        known: Tensor | None,
        device: torch.device,
    ) -> None:
        self.num_nodes, self.nodes, self.device, self.typed = num_nodes, nodes, device, node_type is not None
        self.type = None if node_type is None else node_type.to(device)
        self.num_types = 1 if self.type is None else int(self.type.max()) + 1
        self.all = torch.arange(self.num_types**2, device=device)
        self._lists: dict[int, Tensor] = {}
        if self.type is None:
            self.size = torch.tensor([num_nodes if nodes is None else nodes.numel()], device=device)
        else:
            usable = torch.arange(num_nodes, device=device) if nodes is None else nodes
            own = self.type[usable]
            self.by_type = usable[own.argsort(stable=True)]
            self.size = torch.bincount(own, minlength=self.num_types)
            self.start = self.size.cumsum(0) - self.size
        self.known = self._inside(known, nodes)
        room = (self.size[:, None] * self.size - torch.diag(self.size)).flatten()
        self.free = room - torch.bincount(self.of(self._pairs(self.known)), minlength=room.numel())
        self.crowded = self.free < CROWDED * room

    def _inside(self, known: Tensor | None, nodes: Tensor | None) -> Tensor:
        """Return the keys of known pairs of different nodes that pairs may hold."""
        if known is None:
            return torch.empty(0, dtype=torch.long, device=self.device)
        row, col = self._pairs(known)
        kept = row != col
        if nodes is not None:
            usable = torch.zeros(self.num_nodes, dtype=torch.bool, device=self.device).index_fill_(0, nodes, True)
            kept &= usable[row] & usable[col]
        return known[kept]

    def _pairs(self, key: Tensor) -> Tensor:
        row = key // self.num_nodes
        return torch.stack([row, key - row * self.num_nodes])

    def of(self, pairs: Tensor) -> Tensor:
        """Return the kind of each pair `[2, k]`: `[k]`."""
        if self.type is None:
            return torch.zeros(pairs.size(1), dtype=torch.long, device=self.device)
        row, col = self.type[pairs]
        return row * self.num_types + col

    def flipped(self, kind: Tensor) -> Tensor:
        """Return the kinds of the same pairs in the other direction."""
        return kind % self.num_types * self.num_types + kind // self.num_types

    def free_pairs(self, undirected: bool) -> Tensor:
        """Return the number of absent pairs of each kind `[num_kinds]`; with `undirected`, both directions are one.

        A kind and its flipped one are the same pairs then.
        """
        same = self.flipped(self.all) == self.all
        return torch.where(same, self.free // 2, self.free) if undirected else self.free

    def draw(self, kind: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the key of a uniform pair of each kind `[k]`, which may be an edge or a node with itself."""
        u, v = (self.draw_nodes(t, generator) for t in (kind // self.num_types, kind % self.num_types))
        return u * self.num_nodes + v

    def draw_nodes(self, types: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return a uniform node of each type `[k]`; each must have nodes."""
        share = torch.rand(types.shape, generator=generator, device=self.device, dtype=torch.double)
        place = (share * self.size[types]).long()
        if self.type is None:
            return place if self.nodes is None else self.nodes[place]
        return self.by_type[self.start[types] + place]

    def complement(self, kind: int) -> Tensor:
        """Return the sorted keys of all absent pairs of a kind; its cost is that of all pairs of the kind."""
        if kind not in self._lists:
            rows, cols = (self._of_type(t) for t in divmod(kind, self.num_types))
            key = (rows[:, None] * self.num_nodes + cols).flatten()
            mine = self.known[self.of(self._pairs(self.known)) == kind]
            absent = key % (self.num_nodes + 1) != 0  # u * n + u
            absent[torch.searchsorted(key, mine)] = False
            self._lists[kind] = key[absent]
        return self._lists[kind]

    def _of_type(self, number: int) -> Tensor:
        """Return the sorted nodes of a type."""
        if self.type is not None:
            return self.by_type[self.start[number] : self.start[number] + self.size[number]]
        return torch.arange(self.num_nodes, device=self.device) if self.nodes is None else self.nodes

    def say(self, kind: int, wanted: int, there: int) -> str:
        """Return the sentence that too few pairs of a kind are no edges."""
        types = f" between nodes of types {kind // self.num_types} and {kind % self.num_types}" if self.typed else ""
        return f"Expected at least {wanted} non-edges{types} for as many negatives (got {there})"
