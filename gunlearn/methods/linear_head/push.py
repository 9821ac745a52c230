"""Propagated features updated by lazy forward push: a removal costs what it reaches, not the whole graph.

Follows ScaleGUN (arXiv 2408.09212), whole rows at a time. With `d` the in-degrees, self-loop included, and
`q_0 = D^-1/2 X`, the walk `q_(l+1) = D^-1 A q_l` gives `S^l X = D^1/2 q_l`. Each level has a reserve and a residue,
`r_(l+1) = D^-1 A q_l - q_(l+1)`; a row with `max_j sqrt(d_i) |r_ij| > r_max` is pushed from residue to reserve and on
to the neighbours' next residue. Level 0 and the last one have no residue. A removal changes only the rows of `D^-1 A`
at the touched nodes: they are recomputed by the definition of the residue, then pushed.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import add_remaining_self_loops

from gunlearn.methods.linear_head.propagation import column_blocks, dense_rows
from gunlearn.nn.kernels.memo import memo, remembered
from gunlearn.nn.kernels.sparse import SparseMatrix, csr, csr_tensor, row_of_entries, sparse_matrix
from gunlearn.nn.kernels.subgraph import csr_rows


@dataclass(frozen=True, eq=False)
class RandomWalk:
    """The matrix `D^-1 A` of a graph, rows by target, and the in-degrees `[num_nodes]`, self-loops included."""

    matrix: SparseMatrix
    degree: Tensor

    @classmethod
    def of(cls, edge_index: Tensor, num_nodes: int) -> RandomWalk:
        """Return the walk of a graph; computed once per graph."""

        def build() -> RandomWalk:
            (source, target), _ = add_remaining_self_loops(edge_index, num_nodes=num_nodes)
            degree = torch.bincount(target, minlength=num_nodes).double()
            return cls(sparse_matrix(target, source, 1 / degree[target], (num_nodes, num_nodes)), degree)

        return memo(edge_index, ("walk", num_nodes), build)

    def receivers(self, nodes: Tensor) -> Tensor:
        """Return sorted ids of `nodes` and of the nodes that receive from them."""
        return csr_rows(self.matrix.transpose, nodes).col_indices().unique()

    def sends(self, nodes: Tensor, reached: Tensor) -> Tensor:
        """Return the matrix from rows of some nodes to rows of all their receivers, CSR `[num_reached, num_nodes]`."""
        if nodes.numel() == self.degree.numel():
            return self.matrix.matrix
        some = csr_rows(self.matrix.transpose, nodes)
        place = torch.searchsorted(reached, some.col_indices())
        return csr(place, row_of_entries(some.crow_indices()), some.values(), (reached.numel(), nodes.numel()))


@dataclass(eq=False)
class Pushed:
    """Reserves (levels 1 to K) and residues (1 to K - 1) of one graph, `[num_nodes, num_features]` in double precision.

    Args:
        x: weak reference to the features, and their version.
        reserve: by level, like `residue`.
        r_max: rows with a larger residue are pushed.
        normalize: scale rows of `x` to length 1.
        pushed: rows pushed by the last change, over all levels.
        repaired: rows recomputed by it.
    """

    x: tuple[Any, int]
    reserve: list[Tensor]
    residue: list[Tensor]
    r_max: float
    normalize: bool
    pushed: int = 0
    repaired: int = 0

    @classmethod
    def build(cls, data: Data, num_hops: int, r_max: float, normalize: bool) -> Pushed:
        """Propagate the features of a whole graph."""
        x, num_nodes = data.x, int(data.num_nodes)
        walk, every = RandomWalk.of(data.edge_index, num_nodes), torch.arange(num_nodes, device=x.device)
        shape = (num_nodes, x.size(1))
        reserve = [torch.zeros(shape, dtype=torch.float64, device=x.device) for _ in range(num_hops)]
        state = cls((weakref.ref(x), x._version), reserve, [torch.zeros_like(r) for r in reserve[1:]], r_max, normalize)
        if num_hops:
            first = state.residue[0] if state.residue else reserve[0]
            for columns, block in column_blocks(x, normalize):
                first[:, columns] = walk.matrix @ (block / walk.degree.sqrt().unsqueeze(-1))
            state._push(walk, every)
        return state

    def after(self, old: Data, new: Data, touched: Tensor) -> Pushed:
        """Return the state of the `new` graph, with the nodes of the `old` one; this state does not change.

        `touched` are sorted ids `[k]` of all nodes whose features or in-edges differ.
        """
        num_nodes = int(new.num_nodes)
        before, walk = RandomWalk.of(old.edge_index, num_nodes), RandomWalk.of(new.edge_index, num_nodes)
        reserve, residue = [r.clone() for r in self.reserve], [r.clone() for r in self.residue]
        state = Pushed((weakref.ref(new.x), new.x._version), reserve, residue, self.r_max, self.normalize)
        if not reserve:
            return state
        state.repaired = touched.numel()
        rows = csr_rows(walk.matrix.matrix, touched)
        senders = rows.col_indices().unique()
        place = torch.searchsorted(senders, rows.col_indices())
        rows = csr_tensor(rows.crow_indices(), place, rows.values(), (touched.numel(), senders.numel()))
        for level in range(1, len(reserve) + 1):
            past = self._start(old, before, senders) if level == 1 else self.reserve[level - 2][senders]
            if level == len(reserve):
                reserve[-1][touched] = rows @ past
            else:
                residue[level - 1][touched] = rows @ past - reserve[level - 1][touched]
        change = self._start(new, walk, touched) - self._start(old, before, touched)
        reached = walk.receivers(touched)
        state._send(walk, touched, change, reached, 1)
        state._push(walk, torch.cat([reached, touched]).unique(), touched)
        return state

    def _start(self, data: Data, walk: RandomWalk, nodes: Tensor) -> Tensor:
        return dense_rows(data.x, nodes, self.normalize) / walk.degree[nodes].sqrt().unsqueeze(-1)

    def _send(self, walk: RandomWalk, nodes: Tensor, change: Tensor, reached: Tensor, level: int) -> None:
        """Add a change of the reserves of `nodes` to the next level's residue, or to the last reserve."""
        table = self.reserve[-1] if level == len(self.reserve) else self.residue[level - 1]
        table.index_add_(0, reached, walk.sends(nodes, reached) @ change)

    def _push(self, walk: RandomWalk, reached: Tensor, touched: Tensor | None = None) -> None:
        """Push rows of `reached` above the threshold level by level, and check the touched rows at each level."""
        root = walk.degree.sqrt()
        for now in range(1, len(self.reserve)):
            size = self.residue[now - 1][reached].abs().amax(dim=1) * root[reached]
            nodes = reached[size > self.r_max]
            self.pushed += nodes.numel()
            change = self.residue[now - 1][nodes]
            self.reserve[now - 1].index_add_(0, nodes, change)
            self.residue[now - 1][nodes] = 0
            reached = walk.receivers(nodes)
            self._send(walk, nodes, change, reached, now + 1)
            if touched is not None:
                reached = torch.cat([reached, touched]).unique()

    def rows(self, data: Data, nodes: Tensor, hops: Sequence[float]) -> Tensor:
        """Return `sum_l hops[l] S^l X` of some nodes, approximately: `[num_rows, num_features]`."""
        walk = RandomWalk.of(data.edge_index, int(data.num_nodes))
        out = sum(hop * table[nodes] for hop, table in zip(hops[1:], self.reserve, strict=True) if hop)
        out = out + hops[0] * self._start(data, walk, nodes) if hops[0] else out
        return walk.degree[nodes].sqrt().unsqueeze(-1) * out

    def residues(self, data: Data, hops: Sequence[float]) -> list[tuple[float, Tensor]]:
        """Return the parts of the error of `rows`, a sum of `S^k D^1/2 r_l`.

        Each level has the largest sum of its coefficients, and the nonzero rows of `D^1/2 r_l`.
        """
        root = RandomWalk.of(data.edge_index, int(data.num_nodes)).degree.sqrt().unsqueeze(-1)
        return [
            (sum(map(abs, hops[level:])), (root * table)[table.any(dim=1)])
            for level, table in enumerate(self.residue, start=1)
        ]


def pushed_state(data: Data, num_hops: int, r_max: float, normalize: bool) -> tuple[Pushed, bool]:
    """Return the state of a graph, and whether it was remembered (as long as its `edge_index` lives)."""
    known = remembered(data.edge_index, ("pushed", num_hops, r_max, normalize))
    if known is not None and known.x[0]() is data.x and known.x[1] == data.x._version:
        return known, True
    return Pushed.build(data, num_hops, r_max, normalize), False


def keep_state(data: Data, state: Pushed, num_hops: int) -> None:
    """Remember the state of a graph, for the next request."""
    memo(data.edge_index, ("pushed", num_hops, state.r_max, state.normalize), lambda: state)
