"""Copies of features that a model keeps for itself, and what they are without the forgotten ones."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.nn.kernels.subgraph import csr_rows
from gunlearn.tasks.graph.fresh_values import FreshValues, Slice
from gunlearn.tasks.graph.held_tensors import held_tensors
from gunlearn.tasks.graph.node_records import as_tensor, node_records

_DRAWS, _CHUNK, _SAMPLE = 8, 65536, 256  # projections of a column; rows, and columns, at a time; rows of a comparison
_FAR, _HALF = 0.99, 0.5  # cosine of a row with another row's; share of columns, or of a correlation


def add_feature_copies(found: FreshValues, model: nn.Module, partition: Any) -> None:
    """Add new values for what `model` keeps of forgotten features; warn of what may have been computed from features.

    A copy holds columns of `data.x`, each perhaps moved and scaled (standardised), or rows that were scaled, in any
    order, floating point type and place. It gets what it would hold had it been made from the retained features.

    Args:
        found: gets the new values; tensors that it names are left out.
        model: does not change.
        partition: the resolved request.
    """
    known = {one.name for one in found.slices} | {name for name, _, _ in found.records}
    own, unclear = _of_features(model, partition, known)
    found.slices += own.slices
    found.records += own.records
    if unclear and partition.forget_features:
        said = ", ".join(f"'{name}'" for name in unclear)
        warnings.warn(
            f"{said}: values by node that are no copy of data.x. If they were computed from features (propagated, "
            "encoded, fine-tuned), the forgotten ones are still in them: make them anew from result.data",
            stacklevel=2,
        )


def copied_features(model: nn.Module, partition: Any) -> list[str]:
    """Return the names of what `add_feature_copies` makes new."""
    found, _ = _of_features(model, partition, ())
    return [*(one.name for one in found.slices), *(name for name, _, _ in found.records)]


def warn_of_feature_copies(model: nn.Module, partition: Any) -> None:
    """Warn of what a model to be trained anew keeps of forgotten features: new weights do not take it out."""
    names = copied_features(model, partition)
    if names:
        warnings.warn(
            f"{type(model).__name__} keeps copies of forgotten features in {', '.join(map(repr, names))}, which new "
            "weights do not take out: let 'forward' read x, or make the model anew from result.data",
            stacklevel=5,
        )


def _of_features(model: nn.Module, partition: Any, known: Collection[str]) -> tuple[FreshValues, list[str]]:
    """Return new values of copies, and names of other values by node; both without those that are `known`."""
    found, unclear, taken = FreshValues(), list[str](), _Taken.of(partition)
    if taken is None:
        return found, unclear
    learned = dict(model.named_parameters())
    for name, value in held_tensors(model).items():
        if name in known:
            continue
        is_copy, new = _copy(name, value, taken)
        found.slices += [] if new is None else [new]
        if not is_copy and _may_be_computed(value, taken, name in learned):
            unclear.append(name)
    for name, store in node_records(model, taken.size).items():
        if name in known:
            continue
        rows = taken.records(store)
        if rows:
            found.records.append((name, taken.size, rows))
        else:
            unclear.append(name)
    return found, unclear


@dataclass(frozen=True)
class _Taken:
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
    def of(cls, partition: Any) -> _Taken | None:
        """Return what a request takes of the features; `None` where it takes nothing."""
        x, left = partition.data.get("x"), partition.retain_data.get("x")
        if x is left or not isinstance(x, Tensor) or x.dim() != 2 or x.is_complex() or not x.numel():
            return None
        rows = torch.cat([partition.forget_nodes, *(nodes for nodes, _ in partition.forget_features)]).unique()
        before, after = _rows(x, rows), _rows(left, rows)
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
    def columns(self) -> _Columns:
        """What tells the columns of the features."""
        return _Columns.of(self.x, self.weights)

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


@torch.no_grad()
def _copy(name: str, value: Tensor, taken: _Taken) -> tuple[bool, Slice | None]:
    """Return whether a tensor holds features of each node along a dimension, and new values of forgotten entries."""
    if value.is_complex() or value.is_quantized or value.device != taken.x.device:
        return False, None
    for dim in (dim for dim, length in enumerate(value.shape) if length == taken.size):
        table = value.detach().movedim(dim, 0).reshape(taken.size, -1)
        held = table[taken.rows]
        new = _by_column(table, held, taken)
        new = _by_row(table, held, taken) if new is None else new
        if new is None:
            continue
        new = new.to(value.dtype)
        at, columns = (new != held).nonzero(as_tuple=True)
        if not at.numel():
            return True, None
        index, how = _flat(value.shape, dim, taken.rows[at], columns), "made from the features that are left"
        return True, Slice(name, -1, index, new[at, columns], value.numel(), how)
    return False, None


def _by_column(table: Tensor, held: Tensor, taken: _Taken) -> Tensor | None:
    """Return what the rows `held` of a table `[num_nodes, k]` become, whose columns are columns of features.

    `None` where fewer than half of the table's and of the features' columns are found.
    """
    own, features = _Columns.of(table, taken.weights), taken.columns
    near = 1e-3 if not table.is_floating_point() else max(1e-3, 8 * torch.finfo(table.dtype).eps)
    match = own.found_in(features, near, (taken.before != taken.after).any(dim=0))
    count = int((match >= 0).sum())
    if not count or 2 * count < min(int((own.spread > 0).sum()), int((features.spread > 0).sum())):
        return None
    new, columns = held.double(), (match >= 0).nonzero().view(-1)
    source = match[columns]
    scale = torch.where(features.spread[source] > 0, own.spread[columns] / features.spread[source], 1.0)
    shift = own.mean[columns] - scale * features.mean[source]
    same = ((scale - 1).abs() < near) & (shift.abs() < near * (1 + own.spread[columns]))
    scale, shift = scale.masked_fill(same, 1.0), shift.masked_fill(same, 0.0)
    before, after = (part[:, source].double() * scale + shift for part in (taken.before, taken.after))
    size = before.abs().amax(dim=0) + own.spread[columns]
    kept = ((held[:, columns].double() - before).abs() <= near * size) & (before != after)
    new[:, columns] = torch.where(kept, after, new[:, columns])
    return new


def _by_row(table: Tensor, held: Tensor, taken: _Taken) -> Tensor | None:
    """Return what the rows `held` become of a table whose rows are those of the features, each scaled."""
    others = taken.others
    if table.size(1) != taken.x.size(1) or table.size(1) < 2 or others.numel() < 2:
        return None
    one, two = table[others].double(), _rows(taken.x, others).double()
    read = one.any(dim=1) & two.any(dim=1)
    same, apart = (torch.cosine_similarity(one, other, dim=1)[read] for other in (two, two.roll(1, 0)))
    if not same.numel() or float(same.min()) < 0.999 or float(apart.mean()) > _FAR:
        return None
    before, after = taken.before.double(), taken.after.double()
    factor = (held.double() * before).sum(1, keepdim=True) / before.square().sum(1, keepdim=True).clamp(min=1e-30)
    return torch.where(before != after, factor * after, held.double())


def _may_be_computed(value: Tensor, taken: _Taken, learned: bool) -> bool:
    """Return whether values by node may have been computed from features; of learned ones, whether they are like them.

    Values of forgotten nodes that are all zero are none any more.
    """
    if value.dim() == 0 or value.size(0) != taken.size or not value.is_floating_point():
        return False
    table = value.detach().reshape(taken.size, -1)
    if not bool(table[taken.rows].any()) or bool((table == table[:1]).all()):
        return False
    if not learned:
        return True
    others = taken.others
    if table.size(1) != taken.x.size(1) or others.numel() < 2:
        return False
    one, two = (part.double() - part.double().mean(0) for part in (table[others], _rows(taken.x, others)))
    return float(torch.cosine_similarity(one.flatten(), two.flatten(), dim=0)) > _HALF


@dataclass(frozen=True)
class _Columns:
    """What tells the columns of a table: mean and spread `[k]`, and projections `[k, draws]` once these are taken off.

    `spread` is 0 where a column is constant.
    """

    mean: Tensor
    spread: Tensor
    prints: Tensor

    @classmethod
    def of(cls, table: Tensor, weights: Tensor) -> _Columns:
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

    def found_in(self, other: _Columns, near: float, first: Tensor) -> Tensor:
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


def _rows(x: Tensor, rows: Tensor) -> Tensor:
    """Return rows of dense or CSR features, dense."""
    return x[rows] if x.layout == torch.strided else csr_rows(x, rows).to_dense()


def _flat(shape: torch.Size, dim: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Return where entries of a table, whose rows ran along `dim`, stand in the flat tensor of `shape`."""
    strides, rest = torch.empty(shape, device="meta").stride(), [k for k in range(len(shape)) if k != dim]
    index = rows * strides[dim]
    if rest:
        places = torch.unravel_index(columns, tuple(shape[k] for k in rest))
        index = index + torch.stack([at * strides[k] for at, k in zip(places, rest, strict=True)]).sum(0)
    return index
