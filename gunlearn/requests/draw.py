"""Draws of edges: how many, from which candidates, in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gunlearn.errors import InvalidRequestError
from gunlearn.requests.graph_tensors import check_node_ids, pair_tensor
from gunlearn.requests.ids import number_to_draw
from gunlearn.requests.selection import k_hop_mask
from gunlearn.requests.training_graph import TrainingGraph
from gunlearn.seed import isolated_rng

if TYPE_CHECKING:
    from gunlearn.requests.edges import ForgetEdges

REGIONS = ("any", "in", "out")
_NUM_HOPS = 2


def draw_edges(request: ForgetEdges, graph: TrainingGraph, scores: Any) -> Tensor:
    """Return the numbers of the drawn edges.

    The draw depends on the sorted edges, not on their order in `data.edge_index`, and is made on the CPU: one seed
    gives one forget set on every device.
    """
    of_relation = None
    if request.edge_type is not None and graph.edge_type is not None:
        of_relation = graph.is_of(request.edge_type)
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
    _refuse_held_out(graph, candidates[:number])
    return candidates[:number]


def _refuse_held_out(graph: TrainingGraph, edges: Tensor) -> None:
    """Refuse drawn edges that are held out, as where another graph was put in place of a split's message graph."""
    if graph.edge_type is not None:  # lists of pairs do not say which relation is held out
        return
    for name in ("val_pos_edge_index", "test_pos_edge_index"):
        if getattr(graph.data, name, None) is None:
            continue
        number = int(torch.isin(graph.find(pair_tensor(graph.data, name)), edges).sum())
        if number:
            raise InvalidRequestError(
                f"Expected training edges alone in 'data.edge_index' (got a draw with {number} held-out edges of "
                f"'data.{name}'); forget sets come from training edges only"
            )


def _degree_sums(graph: TrainingGraph) -> Tensor:
    """Return the sum of both end points' degrees, `[num_edges]`; copies and directions count once, self-loops twice."""
    nodes, position = graph.pairs.unique(return_inverse=True)
    degree = torch.bincount(position.flatten(), minlength=nodes.numel())
    return degree[position].sum(dim=0)


def _largest_scores(graph: TrainingGraph, scores: Any) -> Tensor:
    """Return the largest score among the columns of each edge, `[num_edges]` float64."""
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


def region_edges(graph: TrainingGraph, region: str) -> Tensor:
    """Return the numbers of the training edges in a region, sorted by their end points.

    "in" holds the edges with both end points within two hops of an end point of a test edge, hops along training edges
    in either direction (Cheng et al., "GNNDelete", ICLR 2023, section 5); "out" holds the others, "any" all.
    """
    edges = torch.arange(graph.num_edges, device=graph.edge_index.device)
    if region == "any":
        return edges
    pairs = graph.local(graph.pairs)
    near = k_hop_mask(pairs, _end_points(graph, "test_pos_edge_index"), graph.num_local, _NUM_HOPS)
    inside = near[pairs].all(dim=0)
    return edges[inside if region == "in" else ~inside]


def inpo_edges(graph: TrainingGraph) -> tuple[Tensor, int]:
    """Return the candidates of the official INPO code `[num_candidates]`, in its order, and the number of all edges.

    The official mask starts from the *validation* edges and follows training edges, stored once as row < col, from col
    to row only. Candidates keep the order of `data.train_pos_edge_index`, the order of the split. The second number
    (train, validation and test edges) is the length of the split's permutation.
    """
    if not graph.is_undirected:
        raise InvalidRequestError("Expected an undirected graph for protocol 'inpo' (got a directed edge_index)")
    train = pair_tensor(graph.data, "train_pos_edge_index").to(graph.edge_index.device)
    edges = graph.find(train)
    each_once = edges.numel() == graph.num_edges and bool((edges >= 0).all()) and edges.unique().numel() == len(edges)
    if not each_once or not bool((train[0] < train[1]).all()):
        raise InvalidRequestError(
            "Expected 'data.train_pos_edge_index' to hold each training edge once as row < col, in the order of the "
            f"official split (got {train.size(1)} columns for {graph.num_edges} undirected training edges)"
        )
    local = graph.local(train)
    start = _end_points(graph, "val_pos_edge_index")
    near = k_hop_mask(local, start, graph.num_local, _NUM_HOPS, both_ways=False)
    num_held_out = sum(pair_tensor(graph.data, f"{part}_pos_edge_index").size(1) for part in ("val", "test"))
    return edges[near[local].all(dim=0)], graph.num_edges + num_held_out


def _end_points(graph: TrainingGraph, name: str) -> Tensor:
    """Return the end points of held-out edges that have training edges, local ids `[k]`."""
    held_out = pair_tensor(graph.data, name).to(graph.edge_index.device)
    if held_out.size(1) == 0:
        raise InvalidRequestError(f"Expected 'data.{name}' to hold edges (got none)")
    check_node_ids(held_out, graph.num_nodes, f"data.{name}")
    local = graph.local(held_out).flatten()
    return local[local >= 0]
