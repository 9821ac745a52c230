"""Random node pairs that stand for absent edges."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gunlearn.core.sorting import floor_divide, sort, unique, unique_inverse
from gunlearn.errors import InvalidInputError
from gunlearn.requests.pair_keys import pair_key
from gunlearn.tasks.graph.pair_kinds import PairKinds


class NegativeSampler:
    """Uniform ordered node pairs `u != v`, without known edges unless told otherwise.

    In a graph of several node types a drawn pair joins the types that a given edge joins, and is uniform among the
    pairs that do: types that no edge joins are never joined, and types alone do not tell edges from drawn pairs.

    Args:
        edge_index: known edges `[2, num_edges]`, refused in the directions given.
        num_nodes: number of nodes.
        avoid_edges: `False` gives uniform pairs, whether they are edges or not.
        gone: nodes that no pair may hold, boolean `[num_nodes]`; `None` for none.
        node_type: of each node, integers from 0 `[num_nodes]` (see `node_kinds`); `None` for one type.

    Raises:
        InvalidInputError: fewer than two nodes, more than int64 can number the pairs of, or a complete graph.
    """

    def __init__(
        self,
        edge_index: Tensor,
        num_nodes: int,
        avoid_edges: bool = True,
        gone: Tensor | None = None,
        node_type: Tensor | None = None,
    ) -> None:
        self.nodes = None if gone is None else (~gone[:num_nodes]).nonzero().view(-1).to(edge_index.device)
        room = num_nodes if self.nodes is None else self.nodes.numel()
        if room < 2:
            raise InvalidInputError(f"Expected at least 2 nodes to draw pairs from (got {room})")
        if num_nodes**2 >= 2**63:
            raise InvalidInputError(f"Expected fewer than 2^31.5 nodes to draw pairs from (got {num_nodes})")
        self.num_nodes, self.device, self.edges = num_nodes, edge_index.device, edge_index
        self.known = unique(pair_key(edge_index, num_nodes)) if avoid_edges else None
        self.kinds = PairKinds(num_nodes, node_type, self.nodes, self.known, self.device)
        if self.known is not None:
            occur = self.kinds.of(edge_index).unique() if self.kinds.typed else self.kinds.all
            if not bool((self.kinds.free[occur] > 0).any()) and occur.numel():
                raise InvalidInputError("Expected a graph with non-edges to draw negatives from (got a complete graph)")
        loops = torch.arange(num_nodes, device=self.device) * (num_nodes + 1)  # u * n + u
        self.barred = loops if self.known is None else sort(torch.cat([self.known, loops]))
        # Most pairs are neither: one look-up in a table of the keys' last bits shows it.
        self.last_bits = 2 ** min(max(64 * self.barred.numel(), 1).bit_length(), 27) - 1
        self.table = torch.zeros(self.last_bits + 1, dtype=torch.bool, device=self.device)
        self.table[self.barred & self.last_bits] = True

    def sample(self, num_samples: int, generator: torch.Generator | None = None, like: Tensor | None = None) -> Tensor:
        """Draw pairs `[2, num_samples]`, ordered by row, which may repeat; by default from torch's global generator.

        `like` `[2, num_samples]` are edges whose types the drawn pairs join, one by one, in a graph of several types;
        by default any known edges. Where all pairs of two types are edges there are fewer pairs than asked for.
        """
        if not self.kinds.typed and not bool(self.kinds.crowded[0]):
            return self._split(self._one_type(num_samples, generator))
        if like is None and self.kinds.typed:
            some = torch.randint(self.edges.size(1), (num_samples,), generator=generator, device=self.device)
            like = self.edges[:, some]
        return self._split(sort(self._like(self._kinds_like(like, num_samples), generator)))

    def _kinds_like(self, like: Tensor | None, number: int) -> Tensor:
        if like is None or not self.kinds.typed:
            return torch.zeros(number, dtype=torch.long, device=self.device)
        return self.kinds.of(like)

    def _split(self, key: Tensor) -> Tensor:
        u = floor_divide(key, self.num_nodes)
        return torch.stack([u, key - u * self.num_nodes])

    def _one_type(self, num_samples: int, generator: torch.Generator | None) -> Tensor:
        key = self._draw(num_samples, generator)
        todo = self._refused(key)
        while todo.numel():  # only what was drawn last can be refused
            fresh = self._draw(todo.numel(), generator)
            key[todo] = fresh
            todo = todo[self._refused(fresh)]
        return sort(key)  # the pairs' CSR pattern needs this order

    def _draw(self, size: int, generator: torch.Generator | None) -> Tensor:
        room = self.num_nodes if self.nodes is None else self.nodes.numel()
        u, v = torch.randint(room, (2, size), generator=generator, device=self.device)
        if self.nodes is not None:
            u, v = self.nodes[u], self.nodes[v]
        return u.mul_(self.num_nodes).add_(v)

    def _like(self, kind: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return keys of uniform pairs of given kinds; kinds without any are left out."""
        kind = kind[self.kinds.free[kind] > 0]
        key, listed = torch.empty_like(kind), self.kinds.crowded[kind]
        for number in kind[listed].unique().tolist():
            pool, mine = self.kinds.complement(number), (kind == number).nonzero().view(-1)
            key[mine] = pool[torch.randint(pool.numel(), mine.shape, generator=generator, device=self.device)]
        todo = (~listed).nonzero().view(-1)
        while todo.numel():
            key[todo] = self.kinds.draw(kind[todo], generator)
            todo = todo[self._refused(key[todo])]
        return key

    def _refused(self, key: Tensor) -> Tensor:
        """Return the places `[k]` of keys that are edges or pairs of a node with itself."""
        suspect = self.table.index_select(0, key & self.last_bits).nonzero().view(-1)
        asked = key[suspect]
        slot = torch.searchsorted(self.barred, asked).clamp_(max=self.barred.numel() - 1)
        return suspect[self.barred[slot] == asked]

    def too_few(self, like: Tensor) -> str | None:
        """Return what to say where there are fewer absent pairs than edges `like` `[2, k]`; `None` where enough."""
        kind = self._kinds_like(like, like.size(1))
        wanted = torch.bincount(kind, minlength=self.kinds.free.numel())
        few = (wanted > self.kinds.free).nonzero().view(-1).tolist()
        return None if not few else "; ".join(self.kinds.say(k, int(wanted[k]), int(self.kinds.free[k])) for k in few)

    def distinct(self, likes: Sequence[Tensor], undirected: bool) -> list[Tensor]:
        """Draw as many pairs for each set of edges `[2, k]` as it holds, none twice within the sets or among them.

        Each set is drawn as `sample` draws it; then repeats are replaced.

        Args:
            likes: sets of edges.
            undirected: `(u, v)` and `(v, u)` are one pair.

        Raises:
            InvalidInputError: fewer absent pairs than these.
        """
        wanted = torch.cat([self._same_pair(self._kinds_like(e, e.size(1)), undirected) for e in likes])
        need = torch.bincount(wanted, minlength=self.kinds.free.numel())
        there = self.kinds.free_pairs(undirected)
        if bool((need > there).any()):
            short = (need > there).nonzero().view(-1).tolist()
            said = "; ".join(self.kinds.say(k, int(need[k]), int(there[k])) for k in short)
            percent = min(100 * int(there[k]) // int(need[k]) for k in short)
            raise InvalidInputError(
                f"{said}; hold out at most {percent} % of these edges, since each needs another pair that is no edge"
            )
        keys = [pair_key(self.sample(e.size(1), like=e), self.num_nodes) for e in likes]
        number = [k.numel() for k in keys]
        key = self._replace_repeats(torch.cat(keys), need * 2 > there, undirected)
        return [self._split(sort(part)) for part in key.split(number)]

    def _same_pair(self, kind: Tensor, undirected: bool) -> Tensor:
        return torch.minimum(kind, self.kinds.flipped(kind)) if undirected else kind

    def _replace_repeats(self, key: Tensor, scarce: Tensor, undirected: bool) -> Tensor:
        """Return keys without repeats; of `scarce` kinds (boolean `[num_kinds]`), new ones come from a list of all."""
        while True:
            pair = self._unordered(key) if undirected else key
            _, place = unique_inverse(pair)
            index = torch.arange(key.numel(), device=key.device)
            first = torch.full_like(index, key.numel()).scatter_reduce_(0, place, index, "amin")
            again = (first[place] != index).nonzero().view(-1)
            if not again.numel():
                return key
            kind = self.kinds.of(self._split(key[again]))
            listed = scarce[self._same_pair(kind, undirected)]
            for number in self._same_pair(kind, undirected)[listed].unique().tolist():
                mine = again[listed & (self._same_pair(kind, undirected) == number)]
                pool = self.kinds.complement(number)
                if undirected:
                    pool = self._unordered(pool).unique()
                pool = pool[~torch.isin(pool, pair)]
                key[mine] = pool[torch.randperm(pool.numel()).to(pool.device)[: mine.numel()]]
            key[again[~listed]] = self._like(kind[~listed], None)

    def _unordered(self, key: Tensor) -> Tensor:
        u, v = self._split(key)
        return torch.minimum(u, v) * self.num_nodes + torch.maximum(u, v)
