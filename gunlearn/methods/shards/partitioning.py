"""Balanced partitions of a graph's nodes: at random, by label propagation, by k-means on embeddings."""

import math

import torch
from torch import Tensor

from gunlearn.nn.kernels.sparse import sparse_matrix


def capacity(num_nodes: int, num_shards: int, slack: float) -> int:
    """Return the most nodes that a shard may hold: `n / k (1 + slack)`, rounded up."""
    return math.ceil(num_nodes / num_shards * (1 + slack))


def random_partition(num_nodes: int, num_shards: int) -> Tensor:
    """Draw shards of equal size (up to one node) from torch's global generator: integers `[num_nodes]`."""
    return torch.randperm(num_nodes) % num_shards


def label_propagation(
    edge_index: Tensor, num_nodes: int, num_shards: int, slack: float = 0.1, sweeps: int = 20
) -> Tensor:
    """BLPA of GraphEraser (arXiv 2103.14991): nodes move to the shard of most neighbours, if it has room.

    A sweep counts all nodes' neighbours in each shard, O(edges + n k). A random half of the nodes that gain by moving
    ask for a shard (else two neighbours could swap for ever); each shard admits those that gain most. It ends after
    `sweeps`, or when no node gains.

    Edges `[2, num_edges]` count both ways; `slack` is room above `n / k`, as a share. Returns the shards `[num_nodes]`.
    """
    limit, device = capacity(num_nodes, num_shards, slack), edge_index.device
    shard = random_partition(num_nodes, num_shards).to(device)
    row, col = torch.cat([edge_index, edge_index.flip(0)], dim=1)
    adjacency = sparse_matrix(row, col, torch.ones_like(row, dtype=torch.float), (num_nodes, num_nodes))
    for _ in range(sweeps):
        count = adjacency @ torch.nn.functional.one_hot(shard, num_shards).float()
        most, best = count.max(dim=1)
        gain = most - count.gather(1, shard.view(-1, 1)).view(-1)
        if not bool((gain > 0).any()):
            break
        asks = ((gain > 0) & (torch.rand(num_nodes, device=device) < 0.5)).nonzero().view(-1)
        room = limit - torch.bincount(shard, minlength=num_shards)
        moves = asks[admitted(best[asks], -gain[asks], room)]
        shard[moves] = best[moves]
    return shard


def balanced_kmeans(z: Tensor, num_shards: int, slack: float = 0.1, sweeps: int = 10) -> Tensor:
    """BEKM of GraphEraser (arXiv 2103.14991): k-means with clusters of limited size.

    Each sweep measures n k distances. Nodes ask for the nearest centre with room, each centre admits the nearest of
    them, and the others ask again: at most k rounds. (The authors solve an assignment problem over n x n costs
    instead.) It ends when nothing changes. Embeddings `z` are `[num_nodes, dim]`; for the rest see `label_propagation`.
    """
    size = z.size(0)
    centre = z[torch.randperm(size)[:num_shards].to(z.device)]
    room = torch.full((num_shards,), capacity(size, num_shards, slack), device=z.device)
    shard = torch.full((size,), -1, device=z.device)
    for _ in range(sweeps):
        found = assign(torch.cdist(z, centre), room)
        if torch.equal(found, shard):
            break
        shard = found
        count = torch.bincount(shard, minlength=num_shards)[:, None]
        sums = torch.zeros_like(centre).index_add_(0, shard, z)
        centre = torch.where(count == 0, centre, sums / count.clamp(min=1))
    return shard


def assign(cost: Tensor, room: Tensor) -> Tensor:
    """Assign each row of `cost` `[n, k]` to a column of low cost: `[n]`.

    `room` `[k]` limits the rows of each column; its sum is at least `n`.
    """
    chosen, room = torch.full((cost.size(0),), -1, device=cost.device), room.clone()
    left = torch.arange(cost.size(0), device=cost.device)
    while left.numel():
        price, column = cost[left].masked_fill(room == 0, math.inf).min(dim=1)
        taken = admitted(column, price, room)
        chosen[left[taken]] = column[taken]
        room -= torch.bincount(column[taken], minlength=room.numel())
        left = left[~taken]
    return chosen


def admitted(target: Tensor, price: Tensor, room: Tensor) -> Tensor:
    """Admit for each target as many of lowest price as it has room for; boolean `[n]`."""
    order = price.argsort(stable=True)
    order = order[target[order].argsort(stable=True)]
    start = torch.bincount(target, minlength=room.numel()).cumsum(0)
    sorted_target = target[order]
    first = torch.cat([start.new_zeros(1), start[:-1]])[sorted_target]
    rank = torch.arange(target.numel(), device=target.device) - first
    result = torch.zeros_like(target, dtype=torch.bool)
    result[order] = rank < room[sorted_target]
    return result
