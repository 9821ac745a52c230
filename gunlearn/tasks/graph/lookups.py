"""Rows of a model's tensors that nodes look up by ids: which node reads which, seen in a forward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gunlearn.tasks.graph.held_tensors import named_tensors

_INDEX = ("aten::index.Tensor", "aten::_unsafe_index.Tensor")


class Lookups(TorchDispatchMode):
    """Inside the block every lookup in a model's tensors by an index with an entry per node is noted.

    An index of an embedding, of a tensor or of a view of one counts: `table[ids]`, `table.view(-1, 8)[ids]`,
    `index_select`.

    Args:
        model: whose tensors are watched, among them the weights of embeddings under a parametrisation.
        sizes: numbers of rows that an index may have: those of nodes, or of the nodes of one type.

    Attributes:
        found: by name of a tensor and dimension, the indices `[num_rows, k]` of the entries that each row reads.
    """

    def __init__(self, model: nn.Module, sizes: set[int]) -> None:
        super().__init__()
        self.sizes = sizes
        self.tensors: dict[int, list[tuple[str, Tensor]]] = {}
        for name, (_, value) in named_tensors(model).items():
            self.tensors.setdefault(value.untyped_storage().data_ptr(), []).append((name, value))
        self.found: dict[tuple[str, int], Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self._note(func.name(), args)
        return func(*args, **(kwargs or {}))

    def _note(self, name: str, args: tuple) -> None:
        if name in _INDEX:
            given = [(dim, index) for dim, index in enumerate(args[1]) if index is not None]
            if len(given) == 1:
                self._read(args[0], *given[0])
        elif name == "aten::embedding":
            self._read(args[0], 0, args[1])
        elif name == "aten::index_select":
            self._read(args[0], args[1] % args[0].dim(), args[2])

    def _read(self, view: Tensor, dim: int, index: Tensor) -> None:
        if index.dtype not in (torch.long, torch.int) or not index.dim() or index.size(0) not in self.sizes:
            return
        if view.layout != torch.strided:
            return
        for name, value in self.tensors.get(view.untyped_storage().data_ptr(), ()):
            rows = _rows(value, view, dim, index.detach().long().reshape(index.size(0), -1))
            if rows is None:
                continue
            at = name, dim if view.shape == value.shape else 0
            before = self.found.get(at)
            if before is None or before.size(0) == rows.size(0):
                self.found[at] = rows if before is None else torch.cat([before, rows], dim=1)


def _rows(value: Tensor, view: Tensor, dim: int, index: Tensor) -> Tensor | None:
    """Return the entries of `value` that an index `[n, k]` along `dim` of a view reads; `None` if they are no rows."""
    index = torch.where(index < 0, index + view.size(dim), index)
    if view.shape == value.shape and view.stride() == value.stride():
        return index if view.storage_offset() == value.storage_offset() else None
    if dim or not view.is_contiguous() or not value.is_contiguous() or view.dtype != value.dtype:
        return None
    wide, row = view.stride(0), value.stride(0)  # numbers of elements of a row
    first = view.storage_offset() - value.storage_offset()
    if wide % row or first % row or first < 0:
        return None
    rows = index[..., None] * (wide // row) + first // row + torch.arange(wide // row, device=index.device)
    rows = rows.reshape(index.size(0), -1)
    return rows if not rows.numel() or int(rows.max()) < value.size(0) else None


def own_rows(index: Tensor, gone: Tensor) -> tuple[Tensor, bool]:
    """Return the entries that forgotten rows alone read `[k]`, and whether the index is an id: no two rows share it.

    Args:
        index: entries that each row reads, `[num_rows, k]`.
        gone: which rows are forgotten, boolean `[num_rows]`.
    """
    own = index[gone].unique()
    alone = index.size(0) > 1 and index.unique().numel() == index.numel()
    return own[~torch.isin(own, index[~gone])], alone
