"""Take features of nodes out of `x`, and tell ids of nodes from features."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from gunlearn.core.large_pages import large_copy
from gunlearn.errors import InvalidRequestError
from gunlearn.requests.selection import Selection


def features_without(
    x: Tensor,
    selection: Selection,
    node_type: Tensor | None = None,
    copy: Callable[[Tensor], Tensor] = large_copy,
) -> Tensor:
    """Return a copy of dense or CSR features `[num_nodes, ...]` without those that a selection forgets.

    `copy` makes it where they are dense.

    Ids of nodes stay: see `ids_in`, and `row_numbers` for those beside features. A warning says where zeros may be read
    as a category of their own.

    Raises:
        InvalidRequestError: features are to be forgotten where there are only ids.
    """
    blocks = ((selection.nodes, None), *selection.features) if selection.nodes.numel() else selection.features
    out = without_features(x, blocks, copy)
    if x.is_complex() or x.dtype == torch.bool or x.layout != torch.strided:
        return out
    if x.is_floating_point():
        count = row_numbers(x) if selection.nodes.numel() else []
        if count:
            out[:, count] = x[:, count]
            out = without_features(out, selection.features)
        return out
    ids = ids_in(x, node_type)
    for nodes, columns in selection.features:
        entries = ids[nodes] if columns is None else ids[nodes[:, None], columns[None, :]]
        if bool(entries.all()):
            raise InvalidRequestError(
                "Expected features to forget in 'data.x' (got integers that number the nodes, which say nothing of a "
                "node); what a model knows of a node by its id goes with ForgetNodes"
            )
    out = torch.where(ids, x, out)
    changed = (out != x) & ~ids
    read = bool(selection.features) or not selection.graphs.numel()  # nothing reads a graph that is gone
    if read and bool(changed.any()) and int(x.max()) > 1 and bool(((x == 0) & ~ids).any()):
        warnings.warn(
            "'data.x' holds integers, of which forgotten ones become 0: a model that looks categories up "
            "(nn.Embedding) reads that as category 0; keep 0 for 'unknown', or pass floating point features",
            stacklevel=2,
        )
    return out


def ids_in(x: Tensor, node_type: Tensor | None = None) -> Tensor:
    """Return which entries of integer features `[num_nodes, ...]` are ids of nodes, boolean of the same shape.

    A column numbers the nodes, or the nodes of one type, where its values are distinct and leave no gap.
    """
    flat = x.reshape(x.size(0), -1)
    ids = torch.zeros_like(flat, dtype=torch.bool)
    every = torch.arange(x.size(0), device=x.device)
    groups = [every]
    if isinstance(node_type, Tensor) and node_type.numel() == x.size(0):
        groups += [every[(node_type == kind).to(x.device)] for kind in node_type.unique()]
    for rows in groups:
        if rows.numel() < 2:
            continue
        low, high = flat[rows].min(dim=0).values, flat[rows].max(dim=0).values
        for column in (high - low == rows.numel() - 1).nonzero().view(-1).tolist():
            if flat[rows, column].unique().numel() == rows.numel():
                ids[rows, column] = True
    return ids.view(x.shape)


def row_numbers(x: Tensor) -> list[int]:
    """Return which columns of floating point features `[num_nodes, num_features]` count the rows, from 0 or 1 on.

    They are ids that stand beside features, and say nothing of a node.
    """
    if x.dim() != 2 or x.size(0) < 3:
        return []
    likely = ((x[0] == 0) | (x[0] == 1)) & (x[-1] - x[0] == x.size(0) - 1)
    places = torch.arange(x.size(0), device=x.device)
    return [c for c in likely.nonzero().view(-1).tolist() if torch.equal(x[:, c], (places + x[0, c]).to(x.dtype))]


def without_features(
    x: Tensor, blocks: tuple[tuple[Tensor, Tensor | None], ...], copy: Callable[[Tensor], Tensor] = large_copy
) -> Tensor:
    """Return a copy of dense or CSR features `[num_nodes, num_features]` without blocks of entries.

    A block is node ids `[k]` and columns `[c]`, `None` for all columns.
    """
    if x.layout == torch.strided:
        x = copy(x)
        for nodes, columns in blocks:
            x[nodes if columns is None else (nodes[:, None], columns[None, :])] = 0
        return x
    if x.layout != torch.sparse_csr:
        raise InvalidRequestError(f"Expected dense or CSR features 'data.x' (got {x.layout})")
    pointer, column = x.crow_indices(), x.col_indices()
    row = torch.repeat_interleave(torch.arange(x.size(0), device=x.device), pointer.diff())
    kept = torch.ones_like(column, dtype=torch.bool)
    for nodes, columns in blocks:
        hit = torch.zeros(x.size(0), dtype=torch.bool, device=x.device).index_fill(0, nodes, True)[row]
        if columns is not None:
            hit &= torch.zeros(x.size(1), dtype=torch.bool, device=x.device).index_fill(0, columns, True)[column]
        kept &= ~hit
    count = torch.bincount(row[kept], minlength=x.size(0)).to(pointer.dtype)
    pointer = torch.cat([pointer[:1], count.cumsum(0).to(pointer.dtype)])
    return torch.sparse_csr_tensor(pointer, column[kept], x.values()[kept], size=x.shape, check_invariants=False)
