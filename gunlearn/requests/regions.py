"""Where a drawn forget set may lie: inside or outside the neighbourhood of held-out edges."""

from __future__ import annotations

import torch
from torch import Tensor

from gunlearn.errors import InvalidRequestError
from gunlearn.requests.training_graph import TrainingGraph, check_node_ids, pair_tensor

REGIONS = ("any", "in", "out")
_NUM_HOPS = 2


def k_hop_mask(edge_index: Tensor, start: Tensor, num_hops: int, both_ways: bool = True) -> Tensor:
    """Return the nodes within `num_hops` of the nodes in `start`.

    Args:
        edge_index: `[2, n]`, ids below `start.numel()`.
        start: boolean `[num_nodes]`.
        num_hops: number of hops.
        both_ways: follow edges in both directions; otherwise from col to row only, the "source_to_target" flow of
            PyG's `k_hop_subgraph`.

    Returns:
        Boolean mask `[num_nodes]`, `start` included.
    """
    row, col = edge_index
    mask = start.clone()
    for _ in range(num_hops):
        reached = mask.clone()
        reached[row[mask[col]]] = True
        if both_ways:
            reached[col[mask[row]]] = True
        if torch.equal(reached, mask):
            break
        mask = reached
    return mask


def region_edges(graph: TrainingGraph, region: str) -> Tensor:
    """Return the numbers of the training edges in a region, sorted by their end points.

    "in" holds the edges with both end points within two hops of an end point of a test edge, hops along training
    edges in either direction (the enclosing subgraph of the test edges; Cheng et al., "GNNDelete", ICLR 2023,
    section 5); "out" holds the others, "any" all.

    Raises:
        InvalidRequestError: "in" or "out" where `data` has no `test_pos_edge_index`.
    """
    edges = torch.arange(graph.num_edges, device=graph.edge_index.device)
    if region == "any":
        return edges
    pairs = graph.local(graph.pairs)
    near = k_hop_mask(pairs, _end_points(graph, "test_pos_edge_index"), _NUM_HOPS)
    inside = near[pairs].all(dim=0)
    return edges[inside if region == "in" else ~inside]


def inpo_edges(graph: TrainingGraph) -> tuple[Tensor, int]:
    """Return the candidates of the official INPO code, in its order, and the length of its split's permutation.

    The official mask starts from the *validation* edges and follows training edges, stored once as row < col, from
    col to row only. Candidates keep the order of `data.train_pos_edge_index`, the order of the split.

    Returns:
        Edge numbers `[num_candidates]`, and the number of all train, validation and test edges.

    Raises:
        InvalidRequestError: the data hold no split, or not the official one of this graph.
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
    near = k_hop_mask(local, _end_points(graph, "val_pos_edge_index"), _NUM_HOPS, both_ways=False)
    num_held_out = sum(pair_tensor(graph.data, f"{part}_pos_edge_index").size(1) for part in ("val", "test"))
    return edges[near[local].all(dim=0)], graph.num_edges + num_held_out


def _end_points(graph: TrainingGraph, name: str) -> Tensor:
    """Mask `[num_local]` of the end points of held-out edges."""
    held_out = pair_tensor(graph.data, name).to(graph.edge_index.device)
    if held_out.size(1) == 0:
        raise InvalidRequestError(f"Expected 'data.{name}' to hold edges (got none)")
    check_node_ids(held_out, graph.num_nodes, f"data.{name}")
    local = graph.local(held_out).flatten()
    mask = torch.zeros(graph.num_local, dtype=torch.bool, device=local.device)
    mask[local[local >= 0]] = True
    return mask
