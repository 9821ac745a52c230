"""Which pairs, triples and nodes of a list a selection takes away."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from gunlearn.requests.pair_keys import is_among
from gunlearn.requests.selection import Selection
from gunlearn.requests.training_graph import TrainingGraph

#: Of two ways to read triples, a list is read in the one that makes so many times more of them edges.
_CLEARLY = 2


class Forgotten:
    """The edges and nodes of a closed selection, looked up in lists and matrices.

    Attributes:
        graph: the whole graph.
        columns: the columns of `edge_index` that go, ascending `[k]`.
        nodes: ids of the nodes that go.
        reading: the columns of triples that are the ends, where another list of the same data has shown it.
    """

    def __init__(self, graph: TrainingGraph, selection: Selection) -> None:
        self.graph, self.columns, self.nodes = graph, selection.columns, selection.nodes
        self.reading: tuple[int, int] | None = None

    @cached_property
    def edges(self) -> Tensor:
        """The mask `[E]` of the columns that go."""
        return self.graph.mask_of(self.columns)

    @cached_property
    def kept(self) -> Tensor:
        """The mask `[E]` of the columns that stay."""
        return ~self.edges

    @cached_property
    def key(self) -> Tensor:
        """The key of each column, `[E]`; see `TrainingGraph.ordered_key`."""
        return self.graph.ordered_key(self.graph.edge_index)

    @cached_property
    def gone_key(self) -> Tensor:
        """The key of each column that goes, `[k]`."""
        return self.graph.ordered_key(self.graph.edge_index[:, self.columns])

    def is_edge(self, ids: Tensor) -> Tensor:
        """Return which pairs `[2, k]` are edges in this direction, of any relation."""
        return self.graph.is_edge(ids)

    def ends_go(self, ids: Tensor) -> Tensor:
        """Return which columns of ids `[n, k]` hold a node that goes."""
        if not self.nodes.numel():
            return torch.zeros(ids.size(1), dtype=torch.bool, device=ids.device)
        return torch.isin(ids, self.nodes.to(ids.device)).any(dim=0)

    def pairs_go(self, ids: Tensor, relation: Tensor | int | None = None, of_any: bool = False) -> tuple[Tensor, bool]:
        """Return which pairs `[2, k]` are edges that go, and whether it hangs on which of several relations they list.

        A pair stays as long as an edge of any relation joins it. Unless they are `of_any` relation, lists of which all
        pairs are edges of one relation lose them with that relation's edge, and so do pairs whose `relation` (of all,
        or of each `[k]`) is given.
        """
        key, device = self.graph.ordered_key(ids), self.columns.device
        gone = is_among(key, self.gone_key)
        if not bool(gone.any()):
            return gone.to(ids.device), False
        if isinstance(relation, Tensor):
            return self._triples_go(key, relation.to(device)).to(ids.device), False
        stays, able = torch.zeros_like(gone), []
        if self.graph.edge_type is not None:  # else all columns of a pair go
            place = gone.nonzero().view(-1)
            stays[place] = is_among(key[place], self.key[self.kept])
        if bool(stays.any()) and not of_any:
            able = self._relations_of(key, relation)
            if len(able) == 1:
                mine = self.graph.edge_type == able[0]
                gone, stays = (is_among(key, self.key[mine & which]) for which in (self.edges, self.kept))
        return (gone & ~stays).to(ids.device), len(able) > 1

    def _triples_go(self, key: Tensor, relation: Tensor) -> Tensor:
        graph = self.graph
        kinds = 0 if graph.edge_type is None else graph.edge_type
        both, mine = self.key * graph.num_relations + kinds, key * graph.num_relations + relation
        mine = torch.where(key < 0, -1, mine)
        return is_among(mine, both[self.edges]) & ~is_among(mine, both[self.kept])

    def _relations_of(self, key: Tensor, said: int | None) -> list[int]:
        """Return the relations whose edges all pairs of a list are."""
        number, kinds = self.graph.num_relations, self.graph.edge_type
        listed = is_among(self.key, key)
        triples = (self.key[listed] * number + kinds[listed]).unique()  # type: ignore[index]
        count = torch.bincount(triples % number, minlength=number)
        able = (count == key.unique().numel()).nonzero().view(-1).tolist()
        if said in able or len(able) < 2:
            return [said] if said is not None and said in able else able
        # All pairs of one relation and some of another: it lists the first.
        size = {r: self.key[kinds == r].unique().numel() for r in able}
        whole = [r for r in able if size[r] == int(count[r])]
        return whole if len(whole) == 1 else able

    def read_triples(self, ids: Tensor) -> tuple[int, int] | None:
        """Return which two rows of triples `[n, k]` are the ends of edges, (0, 1) or (0, 2); `None` if unclear."""
        able = [(0, c) for c in (1, 2) if bool(((ids[[0, c]] >= 0) & (ids[[0, c]] < self.graph.num_nodes)).all())]
        share = {ends: float(self.is_edge(ids[list(ends)]).float().mean()) for ends in able}
        best = max(able, key=lambda ends: share[ends], default=None)
        if best is None or len(able) == 1:
            return best
        other = share[able[0] if best == able[1] else able[1]]
        return best if share[best] > min(_CLEARLY * other, 1 - 1e-9) and share[best] > other else None

    def relation_column(self, ids: Tensor, ends: tuple[int, int]) -> Tensor | None:
        """Return the row of triples that holds their relations, where the graph's edges say that it does."""
        number, row = self.graph.num_relations, ids[3 - ends[1]]
        if self.graph.edge_type is None or not bool(((row >= 0) & (row < number)).all()):
            return None
        key, kinds = self.graph.ordered_key(ids[list(ends)]), self.graph.edge_type
        there = is_among(key, self.key)
        exact = is_among(torch.where(key < 0, -1, key * number + row.to(key.device)), self.key * number + kinds)
        return row if int(exact.sum()) == int(there.sum()) else None
