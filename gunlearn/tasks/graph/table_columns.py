"""What tells the columns of a table of nodes from each other, wherever and however scaled they stand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_CHUNK = 65536  # rows at a time


@dataclass(frozen=True)
class TableColumns:
    """What tells the columns of a table: mean and spread `[k]`, and projections `[k, draws]` once these are taken off.

    `spread` is 0 where a column is constant.
    """

    mean: Tensor
    spread: Tensor
    prints: Tensor

    @classmethod
    def of(cls, table: Tensor, weights: Tensor) -> TableColumns:
        """Return that of a dense or CSR table `[num_nodes, k]`; the first column of `weights` says which rows count."""
        sums = weights.new_zeros(weights.size(1), table.size(1))
        squares = weights.new_zeros(table.size(1))
        if table.layout == torch.sparse_csr:
            counts = table.crow_indices().diff()
            row = torch.arange(table.size(0), device=table.device).repeat_interleave(counts)
            values, column = table.values().double(), table.col_indices().long()
            sums = sums.t().index_add(0, column, values[:, None] * weights[row]).t()
            squares = squares.index_add(0, column, values.square() * weights[row, 0])
        else:
            for part, own in zip(table.split(_CHUNK), weights.split(_CHUNK), strict=True):
                values = part.double()
                sums += own.t() @ values
                squares += own[:, 0] @ values.square()
        total = weights.sum(dim=0)
        mean = sums[0] / total[0]
        square = squares / total[0] - mean.square()
        spread = torch.where(square > 1e-12 * (squares / total[0]), square.clamp(min=0).sqrt(), 0.0)
        prints = (sums[1:] - total[1:, None] * mean) / (spread * total[0].sqrt()).clamp(min=1e-300)
        return cls(mean, spread, prints.t())

    def found_in(self, other: TableColumns, near: float, first: Tensor) -> Tensor:
        """Return which column of another table each one is, `[k]`; -1 where it is none.

        Where it may be several, it is that at the same place, else one of those that are `first` `[num_columns]`.
        """
        known, mine = other.spread > 0, self.spread > 0
        match = torch.full_like(self.spread, -1, dtype=torch.long)
        if match.numel() == known.numel():
            same = mine & known & ((self.prints - other.prints).abs().amax(dim=1) <= near)
            same |= ~mine & ~known & (self.mean == other.mean)
            match[same] = same.nonzero().view(-1)
        for among in (known & first, known):
            places = among.nonzero().view(-1)
            for left in (mine & (match < 0)).nonzero().view(-1).split(1024) if places.numel() else ():
                far, nearest = torch.cdist(self.prints[left], other.prints[places], p=torch.inf).min(dim=1)
                match[left] = torch.where(far <= near, places[nearest], -1)
        return match
