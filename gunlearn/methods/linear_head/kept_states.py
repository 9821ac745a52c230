"""Propagated features that are kept from request to request, with the graph they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from threading import RLock
from typing import Any

from torch import Tensor
from torch_geometric.data import Data

from gunlearn.core.checksums import print_of
from gunlearn.methods.linear_head.push import Pushed
from gunlearn.methods.linear_head.push_all import push_all
from gunlearn.nn.kernels.memo import Store

#: States of one graph and of what requests made of it share their tables: one thread at a time uses any.
LOCK = RLock()
_STATES = Store()  # edge_index -> x -> settings -> state, and prints of both
_Settings = tuple[tuple[float, ...], float, bool, bool]


def pushed_state(
    data: Data, nodes: Tensor, hops: Sequence[float], r_max: float, normalize: bool, bias: bool = False
) -> tuple[Pushed, bool]:
    """Return the state of a graph with training nodes `[n]` (sorted ids), and whether it was kept.

    A state is kept as long as the graph's `edge_index` and `x` live. It is made anew if their values or the training
    nodes are others, edits that torch does not count (by numpy) included.
    """
    settings = (tuple(hops), r_max, normalize, bias)
    state, prints = _states(data).get(settings, (None, None))
    if state is not None and state.is_of(nodes) and prints == prints_of(data):
        return state, True
    state = push_all(data, nodes, *settings)
    keep_state(data, state)
    return state, False


def keep_state(data: Data, state: Pushed, old: Data | None = None) -> None:
    """Keep the state of a graph for the next request; `old` is one that has just been read, perhaps of the same `x`."""
    settings = (state.hops, state.r_max, state.normalize, state.bias)
    same = old is not None and old.x is data.x
    of_x = _states(old)[settings][1][1] if old is not None and same else None
    _states(data)[settings] = state, prints_of(data, of_x)


def prints_of(data: Data, of_x: Any = None) -> tuple[Any, Any]:
    """Return what tells whether edges or features have changed; that of the features may be known."""
    return print_of(data.edge_index), print_of(data.x) if of_x is None else of_x


def _states(data: Data) -> dict[_Settings, tuple[Pushed, tuple[Any, Any]]]:
    by_x = _STATES.get(data.edge_index)
    if by_x is None:
        by_x = _STATES[data.edge_index] = Store()
    if data.x not in by_x:
        by_x[data.x] = {}
    return by_x[data.x]
