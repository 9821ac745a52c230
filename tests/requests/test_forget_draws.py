"""Drawn requests: how many, from where, in which order, and from whose random numbers."""

import random
from collections import Counter

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch_geometric.data import Data
from torch_geometric.utils import k_hop_subgraph, to_undirected

from gunlearn.errors import InvalidRequestError
from gunlearn.requests import ForgetEdges
from gunlearn.seed import isolated_rng
from tests.tasks.cases import columns


def edge_set(edge_index: torch.Tensor) -> set[tuple[int, ...]]:
    return set(columns(edge_index))


@st.composite
def splits(draw: st.DrawFn) -> Data:
    """A sparse graph, so that some edges are far from the test edges; directed ones keep one direction at least."""
    num_nodes = draw(st.integers(6, 16))
    node = st.integers(0, num_nodes - 1)
    pairs = draw(st.lists(st.tuples(node, node), min_size=2, max_size=16, unique_by=lambda pair: tuple(sorted(pair))))
    undirected = draw(st.booleans())
    assume(undirected or any(u != v for u, v in pairs))
    edge_index = torch.tensor(pairs).t().contiguous()
    taken = {*pairs, *(pair[::-1] for pair in pairs)}
    test = draw(st.lists(st.tuples(node, node).filter(lambda pair: pair not in taken), min_size=1, max_size=2))
    return Data(
        edge_index=to_undirected(edge_index) if undirected else edge_index,
        num_nodes=num_nodes,
        test_pos_edge_index=torch.tensor(test).t().contiguous(),
    )


def distinct_edges(data: Data) -> set[tuple[int, int]]:
    pairs = edge_set(data.edge_index)
    return {(min(p), max(p)) if all((v, u) in pairs for u, v in pairs) else p for p in pairs}


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


@given(splits(), st.floats(0.01, 0.99), st.integers(0, 2**40))
def test_ratio_counts_undirected_edges(data, ratio, seed):
    edges = distinct_edges(data)
    assume(int(ratio * len(edges)) > 0)
    partition = ForgetEdges(ratio=ratio, seed=seed).resolve(data)
    assert partition.num_forget == int(ratio * len(edges))
    assert edge_set(partition.forget_edge_index) < edges
    by_count = ForgetEdges(count=int(ratio * len(edges)), seed=seed).resolve(data)
    assert by_count.request_hash == partition.request_hash


@given(splits(), st.integers(0, 2**40), st.data())
def test_draw_by_degree_takes_the_largest(data, seed, drawer):
    edges = distinct_edges(data)
    count = drawer.draw(st.integers(1, len(edges) - 1))
    degree = nx.DiGraph(list(edges)).degree  # in + out: each undirected edge is there once
    partition = ForgetEdges(count=count, by="degree", seed=seed).resolve(data)
    sums = {(u, v): degree[u] + degree[v] for u, v in edges}
    taken = edge_set(partition.forget_edge_index)
    assert len(taken) == count
    assert min(sums[edge] for edge in taken) >= max(sums[edge] for edge in edges - taken)


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
    taken = [best[edge] for edge in edge_set(partition.forget_edge_index)]
    assert sorted(best.values())[-count:] == sorted(taken)
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
    data.val_pos_edge_index = data.test_pos_edge_index = torch.arange(40).view(2, 20)  # chords
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    ForgetEdges(count=5, **arguments).resolve(data)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])


# The "inpo" protocol; the official code's own figures: tests/tasks/test_link_split.py ##################


def random_split(num_nodes: int, num_edges: int, seed: int) -> Data:
    """The split of the official code: one permutation of the row < col edges."""
    with isolated_rng(seed):
        edges = to_undirected(torch.randint(0, num_nodes, (2, num_edges)), num_nodes=num_nodes)
    edges = edges[:, edges[0] < edges[1]]
    num_held_out = int(0.1 * edges.size(1))
    with isolated_rng(seed):
        test, val, train = torch.randperm(edges.size(1)).tensor_split([num_held_out, 2 * num_held_out])
    data = Data(edge_index=to_undirected(edges[:, train], num_nodes=num_nodes), num_nodes=num_nodes)
    for name, part in (("train", train), ("val", val), ("test", test)):
        data[f"{name}_pos_edge_index"] = edges[:, part]
    return data


def official_draw(data: Data, number: int, seed: int) -> torch.Tensor:
    """The lines of the official code, with PyG's k_hop_subgraph."""
    train, val = data.train_pos_edge_index, data.val_pos_edge_index
    _, _, _, inside = k_hop_subgraph(val.flatten().unique(), 2, train, num_nodes=data.num_nodes)
    candidates = inside.nonzero().squeeze(-1)
    with isolated_rng(seed):
        torch.randperm(train.size(1) + val.size(1) + data.test_pos_edge_index.size(1))
        return train[:, candidates[torch.randperm(candidates.numel())[:number]]]


@given(st.integers(20, 40), st.integers(20, 60), st.integers(0, 2**32), st.integers(1, 8))
def test_draw_is_that_of_the_official_lines(num_nodes, num_edges, seed, number):
    # Fails for: the first draw instead of the second, sorted candidates, hops in both directions, test edges.
    data = random_split(num_nodes, num_edges, seed)
    expected = official_draw(data, number, seed)
    assume(expected.size(1) == number)
    partition = ForgetEdges(count=number, protocol="inpo", seed=seed).resolve(data)
    assert edge_set(partition.forget_edge_index) == edge_set(expected)


def test_region_out_warns_and_draws_inside_all_the_same():
    data = random_split(30, 60, seed=1)
    request = ForgetEdges(count=4, protocol="inpo", seed=1)
    with pytest.warns(UserWarning, match="ignores 'region'"):
        outside = ForgetEdges(count=4, protocol="inpo", seed=1, region="out")
    assert outside.resolve(data).request_hash == request.resolve(data).request_hash


def test_refuses_what_is_not_the_official_split():
    data = random_split(30, 60, seed=1)
    request = ForgetEdges(count=2, protocol="inpo")
    train = data.train_pos_edge_index
    for wrong in (train[:, 1:], train.flip(0), torch.cat([train[:, :1], train[:, :-1]], dim=1), data.edge_index):
        data.train_pos_edge_index = wrong
        with pytest.raises(InvalidRequestError, match="each training edge once"):
            request.resolve(data)
    directed = Data(edge_index=train, num_nodes=30, train_pos_edge_index=train)
    with pytest.raises(InvalidRequestError, match="undirected graph"):
        request.resolve(directed)
    with pytest.raises(InvalidRequestError, match=r"at most the .* of region in"):
        ForgetEdges(count=100, protocol="inpo").resolve(random_split(30, 60, seed=1))
