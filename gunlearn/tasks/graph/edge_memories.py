"""Buffers and records by node, and weights by pair, that forgotten edges may have formed: they are named."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.tasks.graph.held_tensors import named_tensors
from gunlearn.tasks.graph.node_places import may_hold_rows
from gunlearn.tasks.graph.node_records import node_records


def warn_of_memories(model: nn.Module, partition: Any, new: set[str]) -> None:
    """Warn of buffers and records by node, which may have been computed from forgotten edges.

    They are left: new ones for the nodes at the ends would lose all other events of these nodes, and other nodes would
    still hold what was passed on to them.
    """
    size, x = int(partition.data.num_nodes), partition.data.get("x")
    stores = list(node_records(model, size))
    tensors, buffers = named_tensors(model), dict(model.named_buffers())
    for name, (owner, value) in tensors.items():
        rows = value.is_floating_point() and value.dim() > 0 and value.size(0) == size and may_hold_rows(owner)
        if not rows or name not in buffers or bool((value == value[:1]).all()):
            continue
        if not (isinstance(x, Tensor) and x.shape == value.shape and torch.equal(x.to(value), value)):
            stores.append(name)
    weights = [
        name
        for name, (owner, value) in tensors.items()
        if isinstance(value, nn.Parameter) and value.shape == (size, size) and may_hold_rows(owner) and name not in new
    ]
    if weights:
        said = ", ".join(f"'{name}'" for name in weights)
        warnings.warn(
            f"{said}: a weight for each pair of nodes, and outputs read all of them: what forgotten edges have "
            "formed there stays; train them anew",
            stacklevel=2,
        )
    if stores:
        said = ", ".join(f"'{name}'" for name in sorted(stores))
        warnings.warn(
            f"{said} keep records per node, which may hold messages of the {partition.forget_edge_index.size(1)} "
            f"forgotten edges: those of the {partition.touched_nodes.numel()} nodes at their ends, and of nodes that "
            "got messages from these. They stay as they are, since new ones for some nodes would lose all their other "
            "events; reset all of them (reset_state(), where the memory has it) and replay the retained events, or "
            "compute them anew from result.data",
            stacklevel=2,
        )
