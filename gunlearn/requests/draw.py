"""Draws of edges: how many, from which candidates, in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gunlearn.errors import InvalidRequestError
from gunlearn.requests.ids import number_to_draw
from gunlearn.requests.regions import inpo_edges, region_edges
from gunlearn.requests.training_graph import TrainingGraph
from gunlearn.seed import isolated_rng

if TYPE_CHECKING:
    from gunlearn.requests.edges import ForgetEdges


def draw_edges(request: ForgetEdges, graph: TrainingGraph, scores: Any) -> Tensor:
    """Return the numbers of the drawn edges.

    The draw depends on the sorted edges, not on their order in `data.edge_index`, and is made on the CPU: one seed
    gives one forget set on every device.

    Raises:
        EmptyForgetSetError: the ratio is less than one edge.
        InvalidRequestError: fewer candidates than edges to draw, or no scores for `by="influence"`.
    """
    of_relation = None
    if request.edge_type is not None and graph.edge_type is not None:
        of_relation = graph.edge_type[graph.first_column] == request.edge_type
    total = graph.num_edges if of_relation is None else int(of_relation.sum())
    number = number_to_draw(request.ratio, request.count, total, "edge")
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
            # In the official code the split takes the first draw after seeding.
            torch.randperm(num_split)
            order = torch.randperm(num_candidates)
    else:
        order = torch.randperm(num_candidates, generator=torch.Generator().manual_seed(int(request.seed)))
    candidates = candidates[order.to(candidates.device)]
    if request.by != "random":
        rank = _degree_sums(graph) if request.by == "degree" else _largest_scores(graph, scores)
        # Stable, so that the random order decides among equals.
        candidates = candidates[rank[candidates].sort(descending=True, stable=True).indices]
    return candidates[:number]


def _degree_sums(graph: TrainingGraph) -> Tensor:
    """Sum of both end points' degrees, `[num_edges]`; copies and directions count once, self-loops twice."""
    nodes, position = graph.pairs.unique(return_inverse=True)
    degree = torch.bincount(position.flatten(), minlength=nodes.numel())
    return degree[position].sum(dim=0)


def _largest_scores(graph: TrainingGraph, scores: Any) -> Tensor:
    """Return the largest score among the columns of each edge, `[num_edges]` float64.

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
