"""The features that a request takes: which nodes lose some, what they were and what is left."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gunlearn.nn.kernels.subgraph import csr_rows
from gunlearn.tasks.graph.node_records import as_tensor
from gunlearn.tasks.graph.table_columns import TableColumns

_DRAWS, _SAMPLE = 8, 256  # projections of a column; rows of a comparison


@dataclass(frozen=True)
class TakenFeatures:
    """The features that a request takes.

    Attributes:
        size: number of nodes.
        x: features before the request, `[num_nodes, num_features]`.
        rows: nodes that lose some, `[k]`.
        before: their features `[k, num_features]`.
        after: what is left of them.
    """

    size: int
    x: Tensor
    rows: Tensor
    before: Tensor
    after: Tensor

    @classmethod
    def of(cls, partition: Any) -> TakenFeatures | None:
        """Return what a request takes of the features; `None` where it takes nothing."""
        x, left = partition.data.get("x"), partition.retain_data.get("x")
        if x is left or not isinstance(x, Tensor) or x.dim() != 2 or x.is_complex() or not x.numel():
            return None
        rows = torch.cat([partition.forget_nodes, *(nodes for nodes, _ in partition.forget_features)]).unique()
        before, after = rows_of_features(x, rows), rows_of_features(left, rows)
        kept = (before != after).any(dim=1)
        return cls(x.size(0), x, rows[kept], before[kept], after[kept]) if bool(kept.any()) else None

    @cached_property
    def weights(self) -> Tensor:
        """Of the nodes in each sum, `[num_nodes, 1 + draws]`: all that lose none alike, then drawn ones."""
        ones = torch.ones(self.size, 1, dtype=torch.double)
        if self.size - self.rows.numel() > _DRAWS:
            ones.index_fill_(0, self.rows.cpu(), 0.0)
        drawn = torch.randn(self.size, _DRAWS, generator=torch.Generator().manual_seed(0), dtype=torch.double)
        return torch.cat([ones, ones * drawn], dim=1).to(self.x.device)

    @cached_property
    def columns(self) -> TableColumns:
        """What tells the columns of the features."""
        return TableColumns.of(self.x, self.weights)

    @cached_property
    def others(self) -> Tensor:
        """Some nodes that lose none, `[n]`."""
        stays = torch.ones(self.size, dtype=torch.bool, device=self.x.device).index_fill_(0, self.rows, False)
        return stays.nonzero().view(-1)[:_SAMPLE]

    def records(self, store: Any) -> dict[int, Any]:
        """Return new records of forgotten nodes, where a dictionary or list by node holds their features."""
        new = {}
        for place, node in enumerate(self.rows.tolist()):
            own = store[node]
            row = torch.as_tensor(own) if isinstance(own, list | float) else as_tensor(own)
            if row is None or row.shape != self.before[place].shape or not torch.equal(row, self.before[place].to(row)):
                return {}
            left = self.after[place].to(row)
            new[node] = left.tolist() if isinstance(own, list) else left if isinstance(own, Tensor) else left.numpy()
        return new


def rows_of_features(x: Tensor, rows: Tensor) -> Tensor:
    """Return rows of dense or CSR features, dense."""
    return x[rows] if x.layout == torch.strided else csr_rows(x, rows).to_dense()
