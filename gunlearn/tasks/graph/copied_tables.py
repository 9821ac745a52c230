"""Tensors that hold features of each node, and what they hold once some features are gone."""

from __future__ import annotations

import torch
from torch import Tensor

from gunlearn.tasks.graph.fresh_values import Slice
from gunlearn.tasks.graph.table_columns import TableColumns
from gunlearn.tasks.graph.taken_features import TakenFeatures, rows_of_features

_FAR = 0.99  # cosine of a row with another node's


@torch.no_grad()
def copied_table(name: str, value: Tensor, taken: TakenFeatures) -> tuple[bool, Slice | None]:
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


def _by_column(table: Tensor, held: Tensor, taken: TakenFeatures) -> Tensor | None:
    """Return what the rows `held` of a table `[num_nodes, k]` become, whose columns are columns of features.

    `None` where fewer than half of the table's and of the features' columns are found.
    """
    own, features = TableColumns.of(table, taken.weights), taken.columns
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


def _by_row(table: Tensor, held: Tensor, taken: TakenFeatures) -> Tensor | None:
    """Return what the rows `held` become of a table whose rows are those of the features, each scaled."""
    others = taken.others
    if table.size(1) != taken.x.size(1) or table.size(1) < 2 or others.numel() < 2:
        return None
    one, two = table[others].double(), rows_of_features(taken.x, others).double()
    read = one.any(dim=1) & two.any(dim=1)
    same, apart = (torch.cosine_similarity(one, other, dim=1)[read] for other in (two, two.roll(1, 0)))
    if not same.numel() or float(same.min()) < 0.999 or float(apart.mean()) > _FAR:
        return None
    before, after = taken.before.double(), taken.after.double()
    factor = (held.double() * before).sum(1, keepdim=True) / before.square().sum(1, keepdim=True).clamp(min=1e-30)
    return torch.where(before != after, factor * after, held.double())


def _flat(shape: torch.Size, dim: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Return where entries of a table, whose rows ran along `dim`, stand in the flat tensor of `shape`."""
    strides, rest = torch.empty(shape, device="meta").stride(), [k for k in range(len(shape)) if k != dim]
    index = rows * strides[dim]
    if rest:
        places = torch.unravel_index(columns, tuple(shape[k] for k in rest))
        index = index + torch.stack([at * strides[k] for at, k in zip(places, rest, strict=True)]).sum(0)
    return index
