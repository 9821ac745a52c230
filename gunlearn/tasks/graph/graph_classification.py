"""Graph classification: an item is a whole graph of a batch, its label one of several classes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.requests.graph_tensors import GONE, num_graphs
from gunlearn.tasks.base import View
from gunlearn.tasks.graph.beside import beside
from gunlearn.tasks.graph.node_classification import NodeClassification, NodeItems, NodeParts


class WholeGraphs(NodeClassification):
    """Each graph of a batch is an item, in place of each node.

    `data` is a `torch_geometric.data.Batch` of all graphs, with `y` and the masks `[num_graphs]` of the split; the
    model is called as `model(x, edge_index, batch=batch)`. A forgotten graph keeps its number and loses all else (see
    `gunlearn.requests.apply`); the model's prediction of it is read on the original batch. Forgotten nodes and edges
    change their graph's input, whose label stays.
    """

    per_node = False
    requests = ("edges", "nodes", "features", "graphs")

    def num_rows(self, data: Data) -> int:
        return num_graphs(data)

    def accepted(self, model: nn.Module) -> list[str]:
        """Return the arguments that the model takes, the batch vector always."""
        return [*super().accepted(model), "batch"]

    def forgotten_items(self, data: Data) -> Tensor:
        """Return which graphs have lost all their nodes to an earlier request, `[num_graphs]`."""
        gone = data.get(GONE)
        if gone is None:
            return torch.zeros(num_graphs(data), dtype=torch.bool, device=data.batch.device)
        nodes, left = (torch.bincount(data.batch[m], minlength=num_graphs(data)) for m in (gone | True, ~gone))
        return (nodes > 0) & (left == 0)

    def holding(self, partition: Any, nodes: Tensor) -> Tensor:
        """Return the graphs of some nodes, and forgotten ones, which may have no nodes."""
        return torch.cat([partition.forget_graphs, partition.data.batch[nodes]]).unique()

    def joined(self, view: View, forget: Tensor) -> tuple[Data, Callable[[Tensor], Tensor]]:
        """Read forgotten graphs in a second copy of the batch, the original one."""
        before = num_graphs(view.partition.data)
        data, _ = beside(view.partition.retain_data, view.partition.data, forget, task=self)
        return data, lambda graphs: graphs + before

    def make_parts(self, view: View) -> NodeParts:
        """Return the parts, with all graphs in one stratum: graphs have no distance to each other."""
        parts = super().make_parts(view)
        parts.start = None
        return parts

    def seeds(self, items: NodeItems) -> Tensor | None:
        """Return `None`: a row is a graph, not a node."""
        return None


class GraphClassification(WholeGraphs):
    """Each graph of a batch is an item of class `data.y`; the model returns logits `[num_graphs, num_classes]`.

    See `WholeGraphs` for data, model and requests.
    """

    name = "graph_classification"
    summary = "which class is this graph?"
