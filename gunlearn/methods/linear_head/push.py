"""Propagated features updated by lazy forward push: a removal costs what it reaches, not the whole graph.

Follows ScaleGUN (arXiv 2408.09212), whole rows at a time. With `d` the in-degrees, self-loop included, and
`q_0 = D^-1/2 X`, the walk `q_(l+1) = D^-1 A q_l` gives `S^l X = D^1/2 q_l`. Each level has a reserve and a residue,
`r_(l+1) = D^-1 A q_l - q_(l+1)`; a row with `max_j sqrt(d_i) |r_ij| > r_max` is pushed from residue to reserve and on
to the neighbours' next residue. Level 0 and the last one have no residue. A removal changes only the rows of `D^-1 A`
at the touched nodes: they are recomputed by the definition of the residue, then pushed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from gunlearn.methods.linear_head.convex import spectral_bound, with_ones
from gunlearn.methods.linear_head.gram import Gram
from gunlearn.methods.linear_head.propagation import column_blocks, dense_rows
from gunlearn.methods.linear_head.row_versions import RowVersions
from gunlearn.methods.linear_head.walk import RandomWalk
from gunlearn.nn.kernels.sparse import multiply

_COLUMNS, _ROWS = 32, 8192  # of the large tables that are read at a time
_WIDEST = 512  # features for which products of all pairs of columns are kept


@dataclass(eq=False)
class Pushed:
    """The propagated features of one graph's training nodes, and what their errors are made of.

    Its tables, in double precision: reserves and residues of all nodes at levels 1 to K - 1, reserves of the training
    nodes at level K, and their features. States of graphs that differ by requests share one copy, see `RowVersions`.

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

    @classmethod
    def build(
        cls, data: Data, nodes: Tensor, hops: Sequence[float], r_max: float, normalize: bool, bias: bool = False
    ) -> Pushed:
        """Propagate the features of a whole graph, some columns at a time; `nodes` are sorted ids `[n]`."""
        x, walk = data.x, RandomWalk.of(data.edge_index, int(data.num_nodes))
        depth, shape = len(hops) - 1, (walk.num_nodes, x.size(1))
        like = {"dtype": torch.float64, "device": x.device}
        tables = [torch.zeros(shape, **like) for _ in range(2 * max(depth - 1, 0))]
        tables += [torch.zeros(nodes.numel(), x.size(1), **like) for _ in range(min(depth, 1))]
        tables += [torch.zeros(nodes.numel(), x.size(1) + bias, **like)]
        alive = torch.ones(nodes.numel(), dtype=torch.bool, device=nodes.device)
        state = cls(RowVersions(tables), walk, nodes, alive, tuple(hops), r_max, normalize, bias)
        if depth:
            state._push_all(x)
        for start in range(0, nodes.numel(), _ROWS):
            part = slice(start, start + _ROWS)
            tables[-1][part] = state._features(data, nodes[part], torch.arange(nodes.numel(), device=x.device)[part])
        state.square = [torch.linalg.vector_norm(table, dim=1).square_() for table in tables[depth - 1 : -2]]
        state.square = [square * walk.degree for square in state.square]
        state.square.append(torch.linalg.vector_norm(tables[-1], dim=1).square_())
        if shape[1] <= _WIDEST:
            state.grams = [Gram.of(state.residue_blocks(level), shape[1], x.device) for level in range(1, depth)]
            state.grams.append(Gram.of(tables[-1].split(_ROWS), shape[1] + bias, x.device))
        return state

    @property
    def depth(self) -> int:
        return len(self.hops) - 1

    def hold(self) -> tuple[list[Tensor], list[Tensor], Tensor | None, Tensor]:
        """Return reserves and residues of levels 1 to K - 1, the reserves of level K, and the features `[n, f]`."""
        *tables, z = self.rows.hold()
        last = tables.pop() if self.depth else None
        return tables[: self.depth - 1], tables[self.depth - 1 :], last, z

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
        if self.depth:
            state.repaired = touched.numel()
            senders, matrix = walk.gathers(touched)
            for level in range(1, self.depth + 1):
                reserve = state.hold()[0]
                past = _start(old, before, senders, self.normalize) if level == 1 else reserve[level - 2][senders]
                state._repair(touched, matrix @ past, level)
            change = _start(new, walk, touched, self.normalize) - _start(old, before, touched, self.normalize)
            reached = walk.reached(touched)
            state._send(touched, change, reached, 1)
            state._push(torch.cat([reached, touched]).unique(), touched)
        state._account(self, new, touched)
        rows.end()
        return state

    # Places of tables: reserves, residues, reserves of the last level, features.
    def _reserve(self, level: int) -> int:
        return level - 1

    def _residue(self, level: int) -> int:
        return self.depth - 2 + level

    def _places(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Return which of some nodes have features, and their places there."""
        place = torch.searchsorted(self.nodes, nodes).clamp_(max=max(self.nodes.numel() - 1, 0))
        known = self.nodes[place] == nodes if self.nodes.numel() else torch.zeros_like(nodes, dtype=torch.bool)
        return known, place[known]

    def _features(self, data: Data, nodes: Tensor, places: Tensor) -> Tensor:
        """Return rows of features `[k, f]` of training nodes, by ids and by places."""
        reserve, _, last, _ = self.hold()
        out = torch.zeros(nodes.numel(), data.x.size(1), dtype=torch.float64, device=nodes.device)
        for hop, table in zip(self.hops[1:-1], reserve, strict=True):
            out = out + hop * table[nodes] if hop else out
        out = out if last is None else out + self.hops[-1] * last[places]
        out = out + self.hops[0] * _start(data, self.walk, nodes, self.normalize) if self.hops[0] else out
        out = self.walk.degree[nodes].sqrt().unsqueeze(-1) * out
        out = with_ones(out) if self.bias else out
        return out * self.alive[places].unsqueeze(-1)

    def _repair(self, touched: Tensor, rows: Tensor, level: int) -> None:
        """Set the residues of the touched rows to their definition, given `rows` of `D^-1 A q_(level - 1)`."""
        if level < self.depth:
            reserve = self.hold()[0][level - 1]
            self.rows.write(self._residue(level), touched, rows - reserve[touched])
        else:
            known, places = self._places(touched)
            self.rows.write(-2 % len(self.rows.hold()), places, rows[known])

    def _send(self, nodes: Tensor, change: Tensor, reached: Tensor, level: int) -> None:
        """Add a change of the reserves of `nodes` to the next level's residue, or to the last reserve."""
        if level < self.depth:
            self.rows.add(self._residue(level), reached, self.walk.sends(nodes, reached) @ change)
        else:
            known, places = self._places(reached)
            self.rows.add(-2 % len(self.rows.hold()), places, self.walk.sends(nodes, reached[known]) @ change)

    def _push(self, reached: Tensor, touched: Tensor) -> None:
        """Push rows of `reached` above the threshold level by level, and check the touched rows at each level."""
        for level in range(1, self.depth):
            residue = self.hold()[1][level - 1]
            size = residue[reached].abs().amax(dim=1) * self.walk.degree[reached].sqrt()
            nodes = reached[size > self.r_max]
            self.pushed += nodes.numel()
            change = residue[nodes]
            self.rows.add(self._reserve(level), nodes, change)
            self.rows.write(self._residue(level), nodes, torch.zeros_like(change))
            reached = self.walk.reached(nodes)
            self._send(nodes, change, reached, level + 1)
            reached = torch.cat([reached, touched]).unique()

    def _push_all(self, x: Tensor) -> None:
        """Push the rows of a whole graph whose residues are zeros."""
        reserve, residue, last, _ = self.hold()
        assert last is not None
        pattern, degree = self.walk.pattern(), self.walk.degree.unsqueeze(-1)

        def send(block: Tensor, columns: slice, level: int) -> None:
            sent = multiply(pattern, block.contiguous()).div_(degree)
            if level < self.depth:
                residue[level - 1][:, columns] = sent
            else:
                last[:, columns] = sent[self.nodes]

        for columns, block in column_blocks(x, self.normalize, _COLUMNS):
            send(block / degree.sqrt(), columns, 1)
        for level in range(1, self.depth):
            table = residue[level - 1]
            size = torch.linalg.vector_norm(table, ord=torch.inf, dim=1) * degree.view(-1).sqrt()
            large = size > self.r_max
            self.pushed += int(large.sum())
            for start in range(0, x.size(1), _COLUMNS):
                columns = slice(start, start + _COLUMNS)
                change = table[:, columns] * large.unsqueeze(-1)
                reserve[level - 1][:, columns] = change
                table[:, columns] -= change
                send(change, columns, level + 1)

    def _account(self, past: Pushed, new: Data, touched: Tensor) -> None:
        """Bring features, lengths and products up to date: of the rows that changed."""
        tables, root = self.rows.hold(), (past.walk.degree.sqrt(), self.walk.degree.sqrt())
        near = [touched]
        square, grams = [s.clone() for s in self.square], list(self.grams)
        for level in range(1, self.depth):
            near.append(self.rows.changed(self._reserve(level)))
            ids = torch.cat([self.rows.changed(self._residue(level)), touched]).unique()
            out = root[0][ids].unsqueeze(-1) * self.rows.before(self._residue(level), ids)
            into = root[1][ids].unsqueeze(-1) * tables[self._residue(level)][ids]
            square[level - 1][ids] = into.square().sum(dim=1)
            if grams:
                grams[level - 1] = grams[level - 1].changed(out, into)
        places = [self._places(torch.cat(near))[1], (past.alive & ~self.alive).nonzero().view(-1)]
        places += [self.rows.changed(len(tables) - 2)] if self.depth else []
        places = torch.cat(places).unique()
        rows, old = self._features(new, self.nodes[places], places), tables[-1][places]
        self.rows.write(len(tables) - 1, places, rows)
        square[-1][places] = rows.square().sum(dim=1)
        if grams:
            grams[-1] = grams[-1].changed(old, rows)
        self.square, self.grams, self.kept = square, grams, {"changes": (places, old, rows)}


def _start(data: Data, walk: RandomWalk, nodes: Tensor, normalize: bool) -> Tensor:
    return dense_rows(data.x, nodes, normalize) / walk.degree[nodes].sqrt().unsqueeze(-1)
