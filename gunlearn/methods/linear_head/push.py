"""Propagated features updated by lazy forward push: a removal costs what it reaches, not the whole graph.

Follows ScaleGUN (arXiv 2408.09212), whole rows at a time. With `d` the in-degrees, self-loop included, and
`q_0 = D^-1/2 X`, the walk `q_(l+1) = D^-1 A q_l` gives `S^l X = D^1/2 q_l`. Each level has a reserve and a residue,
`r_(l+1) = D^-1 A q_l - q_(l+1)`; a row with `max_j sqrt(d_i) |r_ij| > r_max` is pushed from residue to reserve and on
to the neighbours' next residue. Level 0 and the last one have no residue. A removal changes only the rows of `D^-1 A`
at the touched nodes: they are recomputed by the definition of the residue, then pushed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch_geometric.data import Data

from gunlearn.methods.linear_head.convex import spectral_bound, with_ones
from gunlearn.methods.linear_head.gram import Gram
from gunlearn.methods.linear_head.propagation import dense_rows
from gunlearn.methods.linear_head.row_versions import RowVersions
from gunlearn.methods.linear_head.walk import RandomWalk

_ROWS = 8192  # of a large table that are read at a time


@dataclass(eq=False)
class Pushed:
    """The propagated features of one graph's training nodes, and what their errors are made of.

    Its tables, in double precision: reserves and residues of all nodes at levels 1 to K - 1, and the features of the
    training nodes, which hold the reserves of level K. States of graphs that differ by requests share them, see
    `RowVersions`.

    Args:
        nodes: the training nodes of the first graph, sorted ids `[n]`: the rows of features.
        alive: which of them are still training nodes `[n]`; the others' rows of features are zeros.
        hops: weights of the powers of `S`.
        r_max: rows with a larger residue are pushed.
        normalize: scale rows of `x` to length 1.
        bias: features have a last column of ones.
        square: squared lengths of the rows of `D^1/2 r_l` for each level `[num_nodes]`, and of the features `[n]`.
        grams: `A^T A` of the same matrices; none for more than 512 features.
        pushed: rows pushed by the last change, over all levels.
        repaired: rows recomputed by it.
        kept: what else depends on the graph and was computed for it.
    """

    rows: RowVersions
    walk: RandomWalk
    nodes: Tensor
    alive: Tensor
    hops: tuple[float, ...]
    r_max: float
    normalize: bool
    bias: bool = False
    square: list[Tensor] = field(default_factory=list)
    grams: list[Gram] = field(default_factory=list)
    pushed: int = 0
    repaired: int = 0
    kept: dict[str, Any] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        return len(self.hops) - 1

    def hold(self) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Return reserves and residues of levels 1 to K - 1, and the features `[n, f]`."""
        *tables, z = self.rows.hold()
        half = len(tables) // 2
        return tables[:half], tables[half:], z

    def residue_blocks(self, level: int) -> Iterator[Tensor]:
        """Yield all rows of `D^1/2 r_l`, some at a time."""
        table, root = self.hold()[1][level - 1], self.walk.degree.sqrt().unsqueeze(-1)
        for part, scale in zip(table.split(_ROWS), root.split(_ROWS), strict=True):
            yield part * scale

    def changes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return, once, the rows of features that the change touched: places `[k]`, rows before and after `[k, f]`."""
        return self.kept.pop("changes")

    @property
    def num_features(self) -> int:
        return self.hold()[-1].size(1) - self.bias

    def is_of(self, nodes: Tensor) -> bool:
        """Return whether these are the training nodes, sorted ids."""
        return torch.equal(self.nodes[self.alive], nodes)

    @property
    def num_items(self) -> int:
        """Number of training nodes."""
        return int(self.alive.sum())

    def longest(self) -> float:
        """Return the length of the longest row of features."""
        return float(self.square[-1].max().sqrt()) * (1 + 1e-12)

    def largest(self) -> float:
        """Return a bound of the features' largest singular value."""
        if "largest" not in self.kept:
            self.kept["largest"] = self.grams[-1].largest() if self.grams else spectral_bound(self.hold()[-1])
        return self.kept["largest"]

    def shares(self) -> list[float]:
        """Return the largest sum of coefficients of `S^k D^1/2 r_l` in the features' error, for each level."""
        return [sum(map(abs, self.hops[level:])) for level in range(1, self.depth)]

    def after(self, old: Data, new: Data, edges: Tensor, touched: Tensor, nodes: Tensor) -> Pushed:
        """Return the state of a graph without some edges or features of some nodes; this state does not change.

        Args:
            old: the graph of this state.
            new: the other one.
            edges: columns `[2, k]` of the old graph that the new one lacks, with all their copies.
            touched: sorted ids of all nodes whose features or in-edges differ.
            nodes: sorted ids of the training nodes that stay.
        """
        before, walk, rows = self.walk, self.walk.without(edges), self.rows.begin()
        stays = torch.zeros(walk.num_nodes, dtype=torch.bool, device=nodes.device).index_fill_(0, nodes, True)
        alive = self.alive & stays[self.nodes]
        state = replace(self, rows=rows, walk=walk, alive=alive, pushed=0, repaired=0, kept={})
        state.repaired = touched.numel() if self.depth else 0
        last, (senders, matrix) = walk.degree.new_zeros(()), walk.gathers(touched)
        for level in range(1, self.depth + 1):
            reserve, _, _ = state.hold()
            past = _start(old, before, senders, self.normalize) if level == 1 else reserve[level - 2][senders]
            last = matrix @ past  # rows of `D^-1 A q_(level - 1)`
            if level < self.depth:
                rows.write(self._residue(level), touched, last - reserve[level - 1][touched])
        state._renew(new, touched, last)
        if self.depth:
            change = _start(new, walk, touched, self.normalize) - _start(old, before, touched, self.normalize)
            reached = walk.reached(touched)
            state._send(touched, change, reached, 1)
            state._push(torch.cat([reached, touched]).unique(), touched)
        state._account(self, touched)
        rows.end()
        return state

    # Places of tables: reserves, residues, features.
    def _reserve(self, level: int) -> int:
        return level - 1

    def _residue(self, level: int) -> int:
        return self.depth - 2 + level

    @property
    def _z(self) -> int:
        return 2 * max(self.depth - 1, 0)

    def _places(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Return which of some nodes have features, and their places there."""
        place = torch.searchsorted(self.nodes, nodes).clamp_(max=max(self.nodes.numel() - 1, 0))
        known = self.nodes[place] == nodes if self.nodes.numel() else torch.zeros_like(nodes, dtype=torch.bool)
        return known, place[known]

    def _renew(self, data: Data, touched: Tensor, last: Tensor) -> None:
        """Compute the features of touched nodes anew, given their reserves of level K; of lost training nodes zeros."""
        out = last * self.hops[-1]
        for hop, table in zip(self.hops[1:-1], self.hold()[0], strict=True):
            out = out + hop * table[touched] if hop else out
        out = out + self.hops[0] * _start(data, self.walk, touched, self.normalize) if self.hops[0] else out
        out = self.walk.degree[touched].sqrt().unsqueeze(-1) * out
        known, places = self._places(touched)
        out = (with_ones(out) if self.bias else out)[known] * self.alive[places].unsqueeze(-1)
        self.rows.write(self._z, places, out)

    def _add(self, nodes: Tensor, change: Tensor, hop: float) -> None:
        """Add a change of reserves of one level, whose weight is `hop`, to the features."""
        if not hop:
            return
        known, places = self._places(nodes)
        scale = hop * self.walk.degree[nodes[known]].sqrt() * self.alive[places]
        self.rows.add(self._z, places, pad(change[known] * scale.unsqueeze(-1), (0, int(self.bias))))

    def _send(self, nodes: Tensor, change: Tensor, reached: Tensor, level: int) -> None:
        """Add a change of the reserves of `nodes` to the next level's residue, or to the features."""
        if level < self.depth:
            self.rows.add(self._residue(level), reached, self.walk.sends(nodes, reached) @ change)
        else:
            reached = reached[self._places(reached)[0]]
            self._add(reached, self.walk.sends(nodes, reached) @ change, self.hops[-1])

    def _push(self, reached: Tensor, touched: Tensor) -> None:
        """Push rows of `reached` above the threshold level by level, and check the touched rows at each level."""
        for level in range(1, self.depth):
            residue = self.hold()[1][level - 1]
            size = residue[reached].abs().amax(dim=1) * self.walk.degree[reached].sqrt()
            nodes = reached[size > self.r_max]
            self.pushed += nodes.numel()
            change = residue[nodes]
            self.rows.add(self._reserve(level), nodes, change)
            self._add(nodes, change, self.hops[level])
            self.rows.write(self._residue(level), nodes, torch.zeros_like(change))
            reached = self.walk.reached(nodes)
            self._send(nodes, change, reached, level + 1)
            reached = torch.cat([reached, touched]).unique()

    def _account(self, past: Pushed, touched: Tensor) -> None:
        """Bring lengths and products up to date: of the rows that changed."""
        lost = (past.alive & ~self.alive).nonzero().view(-1)
        self.rows.write(self._z, lost, self.rows.hold()[-1][lost] * 0)
        square, grams = [s.clone() for s in self.square], list(self.grams)
        tables, root = self.rows.hold(), (past.walk.degree.sqrt(), self.walk.degree.sqrt())
        for level in range(1, self.depth):
            table = self._residue(level)
            ids = torch.cat([self.rows.changed(table), touched]).unique()
            out = root[0][ids].unsqueeze(-1) * self.rows.before(table, ids)
            into = root[1][ids].unsqueeze(-1) * tables[table][ids]
            square[level - 1][ids] = into.square().sum(dim=1)
            grams[level - 1 : level] = [gram.changed(out, into) for gram in grams[level - 1 : level]]
        places = self.rows.changed(self._z)
        out, into = self.rows.before(self._z, places), tables[-1][places]
        square[-1][places] = into.square().sum(dim=1)
        grams[-1:] = [gram.changed(out, into) for gram in grams[-1:]]
        self.square, self.grams, self.kept = square, grams, {"changes": (places, out, into)}


def _start(data: Data, walk: RandomWalk, nodes: Tensor, normalize: bool) -> Tensor:
    return dense_rows(data.x, nodes, normalize) / walk.degree[nodes].sqrt().unsqueeze(-1)
