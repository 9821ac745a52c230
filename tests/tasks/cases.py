"""Graphs and sets of edges that tests of tasks and requests share."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import to_undirected


def columns(edge_index: Tensor) -> list[tuple[int, ...]]:
    """The pairs of `edge_index`, in order."""
    return [*map(tuple, edge_index.t().tolist())]


def both(pairs):
    """Pairs in both directions."""
    return {*pairs} | {(v, u) for u, v in pairs}


def random_graph(num_nodes: int, count: int, undirected: bool = True, seed: int = 0) -> Data:
    """At most `count` distinct random edges without self-loops, and five features."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(num_nodes, (2, count), generator=generator)
    index = index[:, index[0] != index[1]].unique(dim=1)
    index = to_undirected(index, num_nodes=num_nodes) if undirected else index
    return Data(x=torch.randn(num_nodes, 5, generator=generator), edge_index=index)


def relabelled(data: Data, index: Tensor) -> Data:
    """A copy of the data with other labels at `index`, ids or a mask."""
    out = copy.copy(data)
    out.y = data.y.clone()
    out.y[index] = (data.y[index] + 1) % (int(data.y.max()) + 1)
    return out
