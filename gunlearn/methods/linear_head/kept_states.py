"""Propagated features that are kept from request to request, with the graph they belong to."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from threading import RLock
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from gunlearn.methods.linear_head.push import Pushed
from gunlearn.nn.kernels.memo import Store

#: States of one graph and of what requests made of it share their tables: one thread at a time uses any.
LOCK = RLock()
_STATES = Store()  # edge_index -> settings -> state
_WORDS = 256


@dataclass(frozen=True, eq=False)
class _Kept:
    state: Pushed
    x: weakref.ref[Tensor]
    sums: tuple[int, ...]


def pushed_state(
    data: Data, nodes: Tensor, hops: Sequence[float], r_max: float, normalize: bool, bias: bool = False
) -> tuple[Pushed, bool]:
    """Return the state of a graph with training nodes `[n]` (sorted ids), and whether it was kept.

    A state is kept as long as the graph's `edge_index` lives. It is made anew if edges, features or training nodes are
    others, even if they were edited in a way that torch does not count.
    """
    settings = (tuple(hops), r_max, normalize, bias)
    kept = _STATES.get(data.edge_index, {}).get(settings)
    if kept is not None and kept.x() is data.x and kept.state.is_of(nodes) and kept.sums == _sums(data):
        return kept.state, True
    state = Pushed.build(data, nodes, *settings)
    keep_state(data, state)
    return state, False


def keep_state(data: Data, state: Pushed, old: Data | None = None) -> None:
    """Keep the state of a graph for the next request; `old` is one that has just been read, perhaps of the same `x`."""
    settings = (state.hops, state.r_max, state.normalize, state.bias)
    of_x = None if old is None or old.x is not data.x else _STATES[old.edge_index][settings].sums[1:]
    if data.edge_index not in _STATES:
        _STATES[data.edge_index] = {}
    _STATES[data.edge_index][settings] = _Kept(state, weakref.ref(data.x), _sums(data, of_x))


def _sums(data: Data, of_x: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """Return checksums of edges and features; those of the features may be known."""
    if of_x is None:
        x: Any = data.x
        parts = [x.crow_indices(), x.col_indices(), x.values()] if x.layout == torch.sparse_csr else [x]
        of_x = tuple(byte_sum(part) for part in parts)
    return byte_sum(data.edge_index), *of_x


def byte_sum(tensor: Tensor) -> int:
    """Return a weighted sum of a tensor's bytes in words of 8, at the speed of memory.

    A word that changes, and two that exchange their places, give another sum. It finds edits that torch does not count;
    it is no protection from someone who wants to deceive.
    """
    data = tensor.detach().contiguous().view(-1).view(torch.uint8)
    rows = data.numel() // (8 * _WORDS)
    block, rest = data[: rows * 8 * _WORDS].view(torch.int64).view(rows, _WORDS), data[rows * 8 * _WORDS :].long()
    total = torch.zeros((), dtype=torch.int64, device=data.device)
    for sums in (block.sum(dim=1), block.sum(dim=0), rest):
        place = torch.arange(1, sums.numel() + 1, device=data.device)
        mixed = (place * -7046029254386353131) ^ (place << 17)  # an odd constant of splitmix64
        total = total * 31 + (sums * (mixed | 1)).sum()
    return int(total)
