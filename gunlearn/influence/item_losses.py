"""What an item adds to the training loss by itself, for estimators that follow gradients of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gunlearn._scatter import scatter
from gunlearn.errors import UnsupportedMethodError
from gunlearn.influence.base import InfluenceProblem
from gunlearn.tasks import LinkPrediction, NodeClassification, NodeItems
from gunlearn.tasks.link_prediction import one_direction
from gunlearn.tasks.node_classification import training_nodes


def item_losses(problem: InfluenceProblem) -> Callable[[Tensor], Tensor]:
    """What each item adds to the mean training loss: a function of the outputs `[num_nodes, dim]` to `[num_items]`.

    Link prediction: an edge adds its own term as a positive example, a node those of all its edges (random negatives,
    as many as edges, count in the mean but belong to nobody). Node classification: a node adds its label's term,
    nothing where it is not trained on.

    Raises:
        UnsupportedMethodError: items without a loss of their own.
    """
    model, data, task, items = problem.model, problem.data, problem.task, problem.items
    if isinstance(task, NodeClassification) and items.of == "nodes":
        train = training_nodes(data)
        place = torch.full((items.num_nodes,), -1, device=train.index.device)
        place[train.index] = torch.arange(train.num_items, device=place.device)
        trained = (place[items.ids] >= 0).nonzero().view(-1)
        own = place[items.ids[trained]]
        mine = NodeItems(train.index[own], train.label[own])

        def losses(outputs: Tensor) -> Tensor:
            values = -task.decode(model, outputs, mine).log_prob / train.num_items
            return values.new_zeros(items.num_items).index_put((trained,), values)

        return losses
    if not isinstance(task, LinkPrediction):
        raise UnsupportedMethodError(
            f"Expected items with a training loss of their own, edges or nodes of link prediction or nodes of node "
            f"classification (got {items.of} under '{task.name}')"
        )
    edges = one_direction(data)
    count, pairs = 2 * edges.size(1), task.edge_items(data, items.ids if items.of == "edges" else edges)
    if items.of == "edges":
        return lambda outputs: -task.decode(model, outputs, pairs).log_prob / count
    position = torch.full((items.num_nodes,), -1, device=edges.device)
    position[items.ids] = torch.arange(items.num_items, device=edges.device)
    ends = torch.stack([edges[0], torch.where(edges[0] == edges[1], -1, edges[1])])  # a loop counts once
    item = torch.where(ends >= 0, position[ends], -1)
    end, edge = (item >= 0).nonzero(as_tuple=True)

    def sums(outputs: Tensor) -> Tensor:
        values = -task.decode(model, outputs, pairs).log_prob / count
        return scatter(values[edge], item[end, edge], dim=0, dim_size=items.num_items, reduce="sum")

    return sums
