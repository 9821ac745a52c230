"""Two graphs read in one pass: the retained one, and copies of the few nodes that are others in the original one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.errors import GunlearnError
from gunlearn.nn.kernels.subgraph import Subgraph, gather, propagation_depth
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Task
from gunlearn.tasks.graph.beside import join
from gunlearn.tasks.graph.node_places import looks_nodes_up
from gunlearn.tasks.graph.reading import is_exact
from gunlearn.tasks.trial import private_copy


def linked(
    partition: Any, seeds: Tensor, model: nn.Module | None, task: Task
) -> tuple[Data, Callable[[Tensor], Tensor]] | None:
    """Return the retained graph with copies of nodes of the original that read from it, and the map of node numbers.

    The copies give the outputs of `seeds` on the original graph; the others those on the retained graph, since nothing
    leads from a copy to them. Copied are the nodes whose values are others on the original graph in a layer that the
    outputs of `seeds` depend on: with three layers those within two hops, where the whole of what they read is three.

    Args:
        partition: the resolved request.
        seeds: nodes that are read on the original graph, `[k]`.
        model: that reads them; `None` where that is not known.
        task: calls it.

    Returns:
        The graph, and a map from numbers of the original (among `seeds`) to those of the graph. `None` where a model
        gives other outputs on it, as one that mixes nodes otherwise than by messages, and without features.
    """
    retain, original = partition.retain_data, partition.data
    if model is None or not seeds.numel() or retain.get("x") is None:
        return None
    probe, size = private_copy(getattr(model, "_orig_mod", model), task), int(retain.num_nodes)
    try:
        if looks_nodes_up(probe, size):
            return None
        with isolated_rng():
            depth = propagation_depth(probe, original, task.encode)
        copies = _copies(original.edge_index, partition.touched_nodes, seeds, size, depth)
        number = torch.arange(size, device=seeds.device).index_copy_(
            0, copies, torch.arange(size, size + copies.numel(), device=seeds.device)
        )
        columns = (number[original.edge_index[1]] >= size).nonzero().view(-1)
        part = gather(original, copies, columns, number[original.edge_index[:, columns]])
        joint = join(retain, part, part.edge_index, task)
        found = Subgraph(joint, copies, columns, copies, number[copies])
        exact = is_exact(probe, task, original, found, seeds, training=False)
    except (GunlearnError, RuntimeError, IndexError):  # of a model made for one graph
        return None
    return (joint, found.relabel) if exact else None


def _copies(edge_index: Tensor, changed: Tensor, seeds: Tensor, size: int, depth: int) -> Tensor:
    """Return the nodes, ascending, that are others in a layer that `seeds` depend on.

    After `k` layers a node is another where one of `changed` is within `k` hops before it: it lost features or edges,
    or its number of neighbours, which messages are divided by, is another. Seeds depend on it after `depth - d` layers,
    if they are `d` hops behind it.
    """
    row, col = edge_index
    after, before = _hops(row, col, changed, size, depth), _hops(col, row, seeds, size, depth)
    return (after + before <= depth).index_fill_(0, seeds, True).nonzero().view(-1)


def _hops(start: Tensor, end: Tensor, nodes: Tensor, size: int, most: int) -> Tensor:
    """Return how many edges from `start` to `end` lead from `nodes` to each node, `[size]`; beyond `most`, more."""
    hops = torch.full((size,), most + 1, device=nodes.device).index_fill_(0, nodes, 0)
    for hop in range(most):
        near = end[hops[start] == hop]
        hops[near] = hops[near].clamp(max=hop + 1)
    return hops
