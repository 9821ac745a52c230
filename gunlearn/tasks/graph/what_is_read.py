"""Whether a model reads the edges and the features of the graph that it is given."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import MessagePassing

from gunlearn.errors import GunlearnError, UnsupportedModelError
from gunlearn.nn.kernels.subgraph import gather
from gunlearn.seed import isolated_rng
from gunlearn.tasks.graph.held_tensors import named_tensors
from gunlearn.tasks.graph.node_places import may_be_table
from gunlearn.tasks.trial import other_features, private_copy

if TYPE_CHECKING:
    from gunlearn.tasks.graph.base import GraphTask


def reads_edges(task: GraphTask, model: nn.Module, data: Data, outputs: Tensor) -> bool:
    """Return whether a model's outputs `[num_rows, dim]` differ from those on a graph without edges.

    True where that cannot be told: no edges, outputs that are all the same, a model that needs edges.
    """
    if not data.edge_index.numel() or bool((outputs == outputs[:1]).all()):
        return True
    everything = torch.arange(int(data.num_nodes), device=data.edge_index.device)
    bare = gather(data, everything, everything[:0], data.edge_index[:, :0])
    if isinstance(data.get("x"), Tensor):
        bare.x = data.x  # all rows in their order, and the sparse form that is known by now
    try:
        without = task.encode(model, bare)
    except GunlearnError:
        return True
    return not torch.equal(without, outputs)


def check_edges_are_read(task: GraphTask, model: nn.Module, data: Data, outputs: Tensor) -> None:
    """Refuse a `call` that returns the same on a graph without edges: it reads those of another graph.

    A model called in the usual way is warned of. Both are only so where it has message passing layers; without these, a
    `call` is refused that reads nothing of the graph, unless the model has a table of nodes.

    Raises:
        UnsupportedModelError: such a `call`.
    """
    if not any(isinstance(module, MessagePassing) for module in model.modules()):
        if task.call is not None and not _has_tables(model) and not _reads_anything(task, model, data, outputs):
            raise UnsupportedModelError(
                f"Expected 'call' ({task.call!r}) to read its argument 'data' (got the same outputs for other features "
                "and no edges); it must not read a graph from a file or a variable outside the function"
            )
        return
    if reads_edges(task, model, data, outputs):
        return
    if task.call is not None:
        raise UnsupportedModelError(
            f"Expected 'call' ({task.call!r}) to read the edges of its argument 'data' (got the same outputs for a "
            "graph without edges); it must not read a graph from outside the function"
        )
    warnings.warn(
        f"{type(model).__name__} returns the same for a graph without edges: it does not read data.edge_index, or "
        "keeps a graph of its own, in which what is forgotten stays",
        stacklevel=5,
    )


@torch.no_grad()
def unread(task: GraphTask, model: nn.Module, partition: Any, outputs: Tensor) -> str:
    """Return a sentence that says so where a model reads nothing of the kind that is forgotten; else an empty one.

    Args:
        task: calls the model.
        model: does not change.
        partition: the resolved request.
        outputs: those on the retained graph, `[num_rows, dim]`.
    """
    data, kinds, name = partition.retain_data, partition.forgets, type(getattr(model, "_orig_mod", model)).__name__
    layers = any(isinstance(module, MessagePassing) for module in model.modules())  # the trial pass has looked at these
    edges = kinds == ("edges",) and not task.items_are_pairs and not layers
    tables = _has_tables(model)
    features = kinds == ("features",) or ("nodes" in kinds and task.call is not None and not tables)
    if not edges and not features:
        return ""
    model = private_copy(getattr(model, "_orig_mod", model), task).eval()
    with isolated_rng():
        if edges and not reads_edges(task, model, data, outputs):
            return (
                f"{name} reads no edges: its outputs are the same without any, so a forgotten edge is in none of them "
                "and the request changes the data alone (features that were computed from edges stay as they are)"
            )
        if features and not _reads_features(task, model, data, outputs):
            return (
                f"{name} does not read data.x: its outputs are the same for other features, so forgotten ones are in "
                "none of them, unless it reads a copy of its own"
            )
    return ""


def _reads_anything(task: GraphTask, model: nn.Module, data: Data, outputs: Tensor) -> bool:
    """Return whether outputs change on a graph without edges whose attributes are drawn anew or reordered."""
    if bool((outputs == outputs[:1]).all()):
        return True
    everything = torch.arange(int(data.num_nodes), device=data.edge_index.device)
    other = gather(data, everything, everything[:0], data.edge_index[:, :0])
    draw = torch.Generator().manual_seed(0)
    for name in list(other.keys()):
        value = other[name]
        if not isinstance(value, Tensor):
            del other[name]  # what reads it fails
        if not isinstance(value, Tensor) or name in ("edge_index", "batch") or not value.dim():
            continue
        if value.layout != torch.strided:
            other[name] = value * 2
        elif value.is_floating_point():
            other[name] = 100 * torch.randn(value.shape, generator=draw).to(value)
        else:
            other[name] = value.flip(-1 if value.size(0) == 2 else 0)
    try:
        return not torch.equal(task.encode(model, other), outputs)
    except GunlearnError:
        return True


def _has_tables(model: nn.Module) -> bool:
    return any(isinstance(owner, nn.Embedding) or may_be_table(owner, t) for owner, t in named_tensors(model).values())


def _reads_features(task: GraphTask, model: nn.Module, data: Data, outputs: Tensor) -> bool:
    other = other_features(data)
    if other is None or bool((outputs == outputs[:1]).all()):
        return True
    try:
        return not torch.equal(task.encode(model, other), outputs)
    except GunlearnError:
        return True
