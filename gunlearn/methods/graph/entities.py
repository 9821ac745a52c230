"""The nodes of a request, the graph on which a method reads them, and their inverted features."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.errors import UnsupportedMethodError
from gunlearn.nn.kernels.sparse import csr, row_of_entries
from gunlearn.requests.features import without_features
from gunlearn.requests.selection import k_hop_mask
from gunlearn.tasks.base import Task
from gunlearn.tasks.graph.beside import beside


def forgotten_entities(partition: Any) -> Tensor:
    """Return sorted ids `[k]` of nodes that go or lose features, and of end points of edges that go without nodes."""
    edges, gone = partition.forget_edge_index, partition.forget_nodes
    ends = edges[:, ~torch.isin(edges, gone).any(dim=0)] if "edges" in partition.forgets else edges[:, :0]
    return torch.cat([gone, partition.feature_nodes, ends.flatten()]).unique()


def surrounding(data: Data, entities: Tensor, num_hops: int) -> Tensor:
    """Return the other nodes within `num_hops` of the entities, sorted ids `[k]`."""
    near = k_hop_mask(data.edge_index, entities, int(data.num_nodes), num_hops)
    return near.index_fill(0, entities, False).nonzero().view(-1)


def entity_graph(
    task: Task, partition: Any, entities: Tensor, read: str, message_graph: str, model: nn.Module | None
) -> tuple[Data, Callable[[Tensor], Tensor]]:
    """Return the graph that the model reads, and a function from `forgotten_entities` to their places in it.

    With `read="original"` entities are as in the original graph (put beside the retained one), with `"isolated"` they
    are in the retained graph, where forgotten nodes keep their features but no edge. `message_graph` is `"retain"`, or
    `"full"` for the original graph alone. For `model` see `Task.parts`.
    """
    if message_graph == "full":
        return partition.data, lambda nodes: nodes
    if read == "original":
        return beside(partition.retain_data, partition.data, entities, model, task)
    data = copy.copy(partition.retain_data)
    if partition.data.get("x") is not None:
        data.x = without_features(partition.data.x, partition.forget_features)
    return data, lambda nodes: nodes


def inverted_features(x: Any, nodes: Tensor) -> Tensor:
    """Return `x` `[num_nodes, num_features]`, dense or CSR, with `1 - x` in the rows of `nodes`.

    Inverted rows of CSR features are full, the rest stays sparse. Without floating point features there is nothing to
    invert: `UnsupportedMethodError`.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise UnsupportedMethodError(f"Expected floating point features 'x' for a method that inverts them (got {got})")
    if x.layout == torch.strided:
        return x.index_copy(0, nodes, 1 - x[nodes])
    row, column, value = row_of_entries(x.crow_indices()), x.col_indices().long(), x.values()
    slot = torch.full((x.size(0),), -1, device=x.device)
    slot[nodes] = torch.arange(nodes.numel(), device=x.device)
    inside = slot[row] >= 0
    block = value.new_ones(nodes.numel(), x.size(1))
    block[slot[row[inside]], column[inside]] -= value[inside]
    width = torch.arange(x.size(1), device=x.device)
    rows = torch.cat([row[~inside], nodes.repeat_interleave(x.size(1))])
    columns = torch.cat([column[~inside], width.repeat(nodes.numel())])
    return csr(rows, columns, torch.cat([value[~inside], block.flatten()]), (x.size(0), x.size(1)))
