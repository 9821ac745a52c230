"""Where the columns of an `edge_index` are: found by their ends in the time of what is asked for, not of the graph."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from gunlearn.core.sorting import argsort, sort
from gunlearn.requests.pair_keys import is_among, pair_key

#: Share of the columns that may be gone before their graph is sorted anew.
_GONE = 0.1


@dataclass(frozen=True, eq=False)
class SortedPairs:
    """The columns of a graph by their ends.

    Args:
        num_nodes: at most `MAX_NUM_NODES`.
        key: `row * num_nodes + col` of each column, ascending, `[E]`.
        order: the columns in that order, `[E]`; `None` where the graph itself is sorted.
    """

    num_nodes: int
    key: Tensor
    order: Tensor | None

    @classmethod
    def of(cls, edge_index: Tensor, num_nodes: int) -> SortedPairs:
        key = pair_key(edge_index, num_nodes)
        if bool((key[1:] >= key[:-1]).all()):
            return cls(num_nodes, key, None)
        order = argsort(key, stable=True)
        return cls(num_nodes, key[order], order)

    @cached_property
    def turned(self) -> SortedPairs:
        """The same columns by their second ends."""
        key = self.key % self.num_nodes * self.num_nodes + self.key // self.num_nodes
        order = argsort(key, stable=True)
        return SortedPairs(self.num_nodes, key[order], order if self.order is None else self.order[order])

    def between(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Return the columns with a key from `low` to `high` `[k]`, and which of these ranges holds each, `[n]`."""
        start = torch.searchsorted(self.key, low)
        count = torch.searchsorted(self.key, high, right=True) - start
        at = torch.arange(low.numel(), device=low.device).repeat_interleave(count)
        first = count.cumsum(0) - count
        place = start[at] + torch.arange(at.numel(), device=low.device) - first[at]
        return place if self.order is None else self.order[place], at


@dataclass(frozen=True, eq=False)
class PairIndex:
    """The columns of an `edge_index` `[2, E]`, found by their ends.

    The index of a graph that has lost some columns is that of the graph before, and a list of what is gone: no sort.

    Args:
        pairs: of the graph that was sorted.
        gone: its columns that are gone, ascending.
        one_way: number of distinct pairs left whose reverse is no edge; 0 in an undirected graph.
    """

    pairs: SortedPairs
    gone: Tensor
    one_way: int

    @classmethod
    def of(cls, edge_index: Tensor, num_nodes: int) -> PairIndex:
        """Sort the columns of a graph, whose ids are in `[0, num_nodes)`."""
        pairs = SortedPairs.of(edge_index, num_nodes)
        new = torch.ones_like(pairs.key, dtype=torch.bool)
        torch.ne(pairs.key[1:], pairs.key[:-1], out=new[1:])
        distinct = pairs.key if bool(new.all()) else pairs.key[new]
        back = sort(distinct % num_nodes * num_nodes + distinct // num_nodes)
        one_way = 0 if torch.equal(distinct, back) else int((~is_among(distinct, back)).sum())
        return cls(pairs, pairs.key[:0], one_way)

    def find(self, ends: Tensor) -> tuple[Tensor, Tensor]:
        """Return the columns that hold pairs `[2, k]` in this direction, and which pair each holds, `[n]` both."""
        key = self._key(ends)
        return self._left(*self.pairs.between(key, key))

    def columns_of(self, ends: Tensor) -> Tensor:
        """Return the columns `[n]` that hold one of the pairs `[2, k]` in this direction, each once."""
        key = self._key(ends).unique()
        return self._left(*self.pairs.between(key, key))[0]

    def contains(self, ends: Tensor) -> Tensor:
        """Return which pairs `[2, k]` are edges in this direction, boolean `[k]`."""
        key = self._key(ends)
        if self.gone.numel():
            found = torch.zeros_like(key, dtype=torch.bool)
            return found.index_fill_(0, self._left(*self.pairs.between(key, key))[1], True)
        place = torch.searchsorted(self.pairs.key, key).clamp_(max=self.pairs.key.numel() - 1)
        return self.pairs.key[place] == key

    def leaving(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the columns whose first end is one of `nodes` `[k]`, and which, `[n]` both."""
        return self._left(*self._from(self.pairs, nodes))

    def arriving(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the columns whose second end is one of `nodes` `[k]`, ascending and distinct, and which, `[n]`."""
        if self.one_way:
            return self._left(*self._from(self.pairs.turned, nodes))
        low = nodes * self.pairs.num_nodes
        start, stop = (
            torch.searchsorted(self.pairs.key, key, right=False) for key in (low, low + self.pairs.num_nodes)
        )
        kept = [self.pairs.key[a:b] for a, b in zip(start.tolist(), stop.tolist(), strict=True)]
        key = torch.cat([low[:0], *kept]).unique()
        reverse = torch.stack([key % self.pairs.num_nodes, key // self.pairs.num_nodes])
        columns, which = self.find(reverse)
        return columns, torch.searchsorted(nodes, reverse[1][which])

    def without(self, columns: Tensor, edge_index: Tensor) -> PairIndex | None:
        """Return the index without all copies of some pairs; `None` where a new sort is due.

        Args:
            columns: of the graph, ascending and distinct; of a pair all or none.
            edge_index: of the graph, `[2, E]`.
        """
        before = columns + torch.searchsorted(self._shifts, columns, right=True)
        gone = torch.cat([self.gone, before]).sort().values
        if gone.numel() > _GONE * self.pairs.key.numel():
            return None
        key = pair_key(edge_index[:, columns], self.pairs.num_nodes).unique()
        ends = torch.stack([key // self.pairs.num_nodes, key % self.pairs.num_nodes])
        reverse = ends.flip(0)
        there = self.contains(reverse)
        goes = torch.isin(pair_key(reverse, self.pairs.num_nodes), key)
        change = int((there & ~goes).sum()) - int((~there).sum())  # a reverse that stays has lost its own
        return replace(self, gone=gone, one_way=self.one_way + change)

    @property
    def _shifts(self) -> Tensor:
        """How many columns stay before each that is gone."""
        return self.gone - torch.arange(self.gone.numel(), device=self.gone.device)

    def _key(self, ends: Tensor) -> Tensor:
        return pair_key(ends, self.pairs.num_nodes).to(self.pairs.key.device)

    def _from(self, pairs: SortedPairs, nodes: Tensor) -> tuple[Tensor, Tensor]:
        first = nodes.to(pairs.key.device) * pairs.num_nodes
        return pairs.between(first, first + (pairs.num_nodes - 1))

    def _left(self, columns: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Return columns of the sorted graph, as the graph numbers them now, without those that are gone."""
        if not self.gone.numel():
            return columns, at
        place = torch.searchsorted(self.gone, columns)
        kept = self.gone[place.clamp(max=self.gone.numel() - 1)] != columns
        return columns[kept] - place[kept], at[kept]
