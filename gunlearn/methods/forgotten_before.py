"""Refuse to go on from a result on data that hold again what it has forgotten."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gunlearn.errors import InvalidInputError
from gunlearn.training.result import Result


def check_forgotten_before(training: Any, partition: Any) -> None:
    """Refuse a request that goes on from a result of unlearning, `training`, on the data from before that result.

    These hold what it has forgotten, and going on would train on it again.

    Raises:
        InvalidInputError: the data are those of the request before, or hold its forgotten edges or training nodes.
    """
    before = training.partition if isinstance(training, Result) else None
    if before is None:
        return
    found = "the data of the request before" if partition.data is before.data else _held(before, partition)
    if found:
        raise InvalidInputError(
            f"Expected data without what the result handed in as 'training' has forgotten (got {found}); hand in "
            "its own, gunlearn.unlearn(first.model, first.data, ..., training=first)"
        )


def _held(before: Any, partition: Any) -> str:
    """Return what data hold again, in words; of requests for other things than edges and nodes nothing."""
    graph, edges = getattr(partition, "graph", None), getattr(before, "forget_edge_index", None)
    nodes, mask = getattr(before, "forget_nodes", None), getattr(partition.data, "train_mask", None)
    if graph is not None and edges is not None and edges.numel() and int(edges.max()) < graph.num_nodes:
        again = int(graph.is_edge(edges).sum())
        if again:
            return f"{again} of its {edges.size(1)} edges"
    if (
        isinstance(mask, Tensor)
        and mask.dim() == 1
        and nodes is not None
        and nodes.numel()
        and int(nodes.max()) < mask.numel()
    ):
        again = int(mask[nodes.to(mask.device)].sum())
        if again:
            return f"{again} of its {nodes.numel()} nodes in data.train_mask"
    return ""
