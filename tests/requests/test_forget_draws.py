"""Drawn requests: how many, from where, in which order, and from whose random numbers."""

from __future__ import annotations

import random
from collections import Counter

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch_geometric.data import Data
from torch_geometric.utils import to_undirected

from gunlearn.errors import InvalidRequestError
from gunlearn.requests import ForgetEdges, Partition

SETTINGS = settings(deadline=None, max_examples=40)


def edge_set(edge_index: torch.Tensor) -> set[tuple[int, int]]:
    return {tuple(pair) for pair in edge_index.t().tolist()}


@st.composite
def splits(draw: st.DrawFn, undirected: bool | None = None) -> Data:
    """A sparse graph, so that some edges are far from the test edges; directed ones keep one direction at least."""
    num_nodes = draw(st.integers(6, 16))
    node = st.integers(0, num_nodes - 1)
    pairs = draw(st.lists(st.tuples(node, node), min_size=2, max_size=16, unique_by=lambda pair: tuple(sorted(pair))))
    undirected = draw(st.booleans()) if undirected is None else undirected
    assume(undirected or any(u != v for u, v in pairs))
    edge_index = torch.tensor(pairs).t().contiguous()
    test = draw(st.lists(st.tuples(node, node), min_size=1, max_size=2))
    return Data(
        edge_index=to_undirected(edge_index) if undirected else edge_index,
        num_nodes=num_nodes,
        test_pos_edge_index=torch.tensor(test).t().contiguous(),
    )


def partition_parts(partition: Partition) -> tuple[torch.Tensor, torch.Tensor]:
    return partition.forget_edge_index, partition.retain_edge_index


def distinct_edges(data: Data) -> set[tuple[int, int]]:
    pairs = edge_set(data.edge_index)
    return {(min(p), max(p)) if all((v, u) in pairs for u, v in pairs) else p for p in pairs}


@SETTINGS
@given(splits())
def test_regions_part_the_edges_by_shortest_paths(data):
    # Fails for: one hop or three, hops in one direction only, "or" instead of "and" of the end points.
    graph = nx.Graph(list(edge_set(data.edge_index)))
    graph.add_nodes_from(range(data.num_nodes))
    near: set[int] = set()
    for node in set(data.test_pos_edge_index.flatten().tolist()):
        near |= nx.single_source_shortest_path_length(graph, node, cutoff=2).keys()
    edges = distinct_edges(data)
    inside = {(u, v) for u, v in edges if u in near and v in near}
    for region, expected in (("in", inside), ("out", edges - inside)):
        if 0 < len(expected) < len(edges):
            partition = ForgetEdges(count=len(expected), region=region).resolve(data)
            assert edge_set(partition.forget_edge_index) == expected
        with pytest.raises(InvalidRequestError, match=f"at most the {len(expected)} training edges of region {region}"):
            ForgetEdges(count=len(expected) + 1, region=region).resolve(data)


@SETTINGS
@given(splits(), st.floats(0.01, 0.99), st.integers(0, 2**40))
def test_ratio_counts_undirected_edges(data, ratio, seed):
    edges = distinct_edges(data)
    assume(int(ratio * len(edges)) > 0)
    partition = ForgetEdges(ratio=ratio, seed=seed).resolve(data)
    assert partition.num_forget == int(ratio * len(edges))
    assert edge_set(partition.forget_edge_index) < edges
    by_count = ForgetEdges(count=int(ratio * len(edges)), seed=seed).resolve(data)
    assert by_count.request_hash == partition.request_hash


@SETTINGS
@given(splits(), st.integers(0, 2**40), st.data())
def test_draw_by_degree_takes_the_largest(data, seed, drawer):
    edges = distinct_edges(data)
    count = drawer.draw(st.integers(1, len(edges) - 1))
    degree = nx.DiGraph(list(edges)).degree  # in + out: each undirected edge is there once
    partition = ForgetEdges(count=count, by="degree", seed=seed).resolve(data)
    sums = [[degree[u] + degree[v] for u, v in edge_set(part)] for part in partition_parts(partition)]
    assert len(sums[0]) == count
    assert min(sums[0]) >= max(sums[1])


@SETTINGS
@given(splits(), st.data())
def test_draw_by_influence_takes_the_highest_of_both_directions(data, drawer):
    num_columns = data.edge_index.size(1)
    scores = drawer.draw(st.lists(st.integers(-50, 50), min_size=num_columns, max_size=num_columns))
    edges = distinct_edges(data)
    best = {
        edge: max(s for s, (u, v) in zip(scores, data.edge_index.t().tolist(), strict=True) if (u, v) in (edge, alias))
        for edge in edges
        for alias in [edge[::-1] if edge[::-1] not in edges else edge]
    }
    count = drawer.draw(st.integers(1, len(edges) - 1))
    request = ForgetEdges(count=count, by="influence")
    partition = request.resolve(data, scores=torch.tensor(scores))
    taken, left = ([best[edge] for edge in edge_set(part)] for part in partition_parts(partition))
    assert sorted(taken + left)[-count:] == sorted(taken)
    as_numpy = request.resolve(data, scores=np.array(scores, dtype=np.float32))
    assert as_numpy.request_hash == partition.request_hash


def test_test_nodes_without_training_edges_lie_near_nothing():
    # So large that only the nodes with edges are numbered.
    data = Data(edge_index=torch.tensor([[0, 4], [5, 2**40]]), num_nodes=2**62)
    data.test_pos_edge_index = torch.tensor([[3], [2**50]])
    with pytest.raises(InvalidRequestError, match="the 0 training edges of region in"):
        ForgetEdges(count=1, region="in").resolve(data)
    data.test_pos_edge_index = torch.tensor([[3], [4]])
    assert edge_set(ForgetEdges(count=1, region="in").resolve(data).forget_edge_index) == {(4, 2**40)}


def ring(num_nodes: int = 40) -> Data:
    nodes = torch.arange(num_nodes)
    return Data(edge_index=to_undirected(torch.stack([nodes, nodes.roll(1)])), num_nodes=num_nodes)


@pytest.mark.parametrize("by", ["random", "degree", "influence"])
def test_seed_decides_the_draw_and_the_ties(by):
    data, scores = ring(), torch.zeros(80)
    draws = [ForgetEdges(count=8, by=by, seed=s).resolve(data, scores).request_hash for s in (0, 0, 1, 2)]
    assert draws[0] == draws[1]
    assert len(set(draws)) == 3


def test_draw_does_not_know_the_order_of_columns():
    data = ring()
    shuffled = Data(edge_index=data.edge_index[:, torch.randperm(80)], num_nodes=40)
    request = ForgetEdges(ratio=0.25, seed=5)
    assert request.resolve(shuffled).request_hash == request.resolve(data).request_hash


def test_every_edge_is_as_likely_as_the_next():
    # 400 draws of 1 of 10 edges: 40 each on average, standard deviation sqrt(400 * .1 * .9) = 6.
    drawn = Counter(
        next(iter(edge_set(ForgetEdges(count=1, seed=seed).resolve(ring(10)).forget_edge_index))) for seed in range(400)
    )
    assert len(drawn) == 10
    assert all(abs(times - 40) < 4 * 6 for times in drawn.values())


@pytest.mark.parametrize("arguments", [{}, {"by": "degree"}, {"protocol": "inpo"}])
def test_global_random_state_is_untouched(arguments):
    data = ring()
    row, col = data.edge_index
    data.train_pos_edge_index = data.edge_index[:, row < col]
    data.val_pos_edge_index = data.train_pos_edge_index
    data.test_pos_edge_index = data.train_pos_edge_index
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    ForgetEdges(count=5, **arguments).resolve(data)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])
