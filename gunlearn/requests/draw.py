"""Drawing a forget set: how many edges, from which candidates, in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gunlearn.errors import EmptyForgetSetError, InvalidRequestError
from gunlearn.requests.regions import inpo_edges, region_edges
from gunlearn.requests.training_graph import TrainingGraph
from gunlearn.seed import isolated_rng

if TYPE_CHECKING:
    from gunlearn.requests.edges import ForgetEdges

ORDERS = ("random", "degree", "influence")
PROTOCOLS = (None, "inpo")


def draw_edges(request: ForgetEdges, graph: TrainingGraph, scores: Any) -> Tensor:
    """Numbers of the drawn edges.

    The draw goes by the sorted edges, not by their order in `data.edge_index`, and is made on the CPU: one seed
    gives one forget set on every device.

    Raises:
        EmptyForgetSetError: the ratio of this few edges is less than one edge.
        InvalidRequestError: fewer candidates than edges to draw, or no scores to go by.
    """
    relation = request.edge_type
    of_relation = None if relation is None else graph.edge_type[graph.first_column] == relation
    total = graph.num_edges if of_relation is None else int(of_relation.sum())
    number = request.count if request.count is not None else int(request.ratio * total)
    if number == 0:
        raise EmptyForgetSetError(
            f"Expected a ratio of at least one edge (got {request.ratio} of {total} training edges)"
        )
    if request.protocol == "inpo":
        candidates, num_split = inpo_edges(graph)
        region = "in (protocol 'inpo')"
    else:
        candidates, region = region_edges(graph, request.region), request.region
    if of_relation is not None:
        candidates = candidates[of_relation[candidates]]
    num_candidates = candidates.numel()
    if number > num_candidates:
        raise InvalidRequestError(
            f"Expected at most the {num_candidates} training edges of region {region} (got a draw of {number})"
        )

    if request.protocol == "inpo":
        with isolated_rng(int(request.seed)):
            # The first draw after seeding was the split's.
            torch.randperm(num_split)
            order = torch.randperm(num_candidates)
    else:
        order = torch.randperm(num_candidates, generator=torch.Generator().manual_seed(int(request.seed)))
    candidates = candidates[order.to(candidates.device)]
    if request.by != "random":
        rank = edge_degrees(graph) if request.by == "degree" else edge_scores(graph, scores)
        # Stable, so that the random order decides among equals.
        candidates = candidates[rank[candidates].sort(descending=True, stable=True).indices]
    return candidates[:number]


def edge_degrees(graph: TrainingGraph) -> Tensor:
    """Sum of both end points' degrees, `[num_edges]`; copies count once, self-loops twice, directions together."""
    nodes, position = graph.pairs.unique(return_inverse=True)
    degree = torch.bincount(position.flatten(), minlength=nodes.numel())
    return degree[position].sum(dim=0)


def edge_scores(graph: TrainingGraph, scores: Any) -> Tensor:
    """Largest score among the columns of each edge, `[num_edges]` float64.

    Raises:
        InvalidRequestError: no scores, not one per column, or NaN among them.
    """
    if scores is None:
        raise InvalidRequestError(
            "Expected 'scores', one per column of data.edge_index, for by='influence' (got None); pass them to resolve"
        )
    scores = torch.as_tensor(scores, device=graph.edge_index.device).detach().double()
    if scores.shape != (graph.num_columns,):
        raise InvalidRequestError(f"Expected 'scores' of shape [{graph.num_columns}] (got {tuple(scores.shape)})")
    if bool(scores.isnan().any()):
        raise InvalidRequestError(f"Expected 'scores' without NaN (got {int(scores.isnan().sum())})")
    largest = scores.new_full((graph.num_edges,), -torch.inf)
    return largest.scatter_reduce_(0, graph.edge_of_column, scores, "amax")
