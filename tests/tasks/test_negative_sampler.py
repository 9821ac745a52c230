"""Negatives are uniform over the pairs that are no edges, and exactly as many as asked for."""

from collections import Counter

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch_geometric.data import Data
from torch_geometric.utils import to_undirected

import gunlearn as gu
from gunlearn.errors import InvalidInputError
from gunlearn.tasks import NegativeSampler, as_task
from gunlearn.tasks.graph.node_kinds import node_kinds
from tests.tasks.cases import both, columns

EDGES = torch.tensor([[0, 1, 2, 2, 5, 3, 0], [1, 0, 3, 2, 0, 3, 1]])  # two self-loops, a repeat, one-way edges


def counts(drawn, allowed):
    index = {pair: i for i, pair in enumerate(allowed)}
    found = np.zeros(len(allowed))
    for pair, number in Counter(columns(drawn)).items():
        found[index[pair]] = number  # a KeyError is a pair that must not be drawn
    return found


@pytest.mark.parametrize("avoid", [True, False])
def test_uniform_over_the_pairs_left(avoid):
    pairs = [(u, v) for u in range(7) for v in range(7) if u != v]
    allowed = [pair for pair in pairs if not avoid or pair not in set(columns(EDGES))]
    assert len(allowed) == (42 - 4 if avoid else 42)
    sampler = NegativeSampler(EDGES, 7, avoid_edges=avoid)
    drawn = sampler.sample(20_000, torch.Generator().manual_seed(0))
    found = counts(drawn, allowed)
    assert chisquare(found).pvalue > 1e-3
    # The same in many small draws: the last, cut batch of each must not favour anything.
    generator = torch.Generator().manual_seed(1)
    small = torch.cat([sampler.sample(3, generator) for _ in range(1000)], dim=1)
    assert chisquare(counts(small, allowed)).pvalue > 1e-3
    # Controls: the test sees a sampler that only knows u < v, and one that takes modular shortcuts.
    ordered = drawn.sort(dim=0).values
    assert chisquare(counts(ordered, pairs)).pvalue < 1e-6


@given(
    st.integers(2, 8),
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=40),
    st.integers(0, 50),
    st.integers(0, 5),
)
def test_never_an_edge_and_never_a_self_pair(num_nodes, edges, number, seed):
    edges = [(u, v) for u, v in edges if max(u, v) < num_nodes]
    assume(len({e for e in edges if e[0] != e[1]}) < num_nodes * (num_nodes - 1))
    index = torch.tensor(edges, dtype=torch.long).view(-1, 2).t()
    drawn = NegativeSampler(index, num_nodes).sample(number, torch.Generator().manual_seed(seed))
    assert drawn.shape == (2, number)
    assert drawn.dtype == torch.long
    assert not set(columns(drawn)) & set(edges)
    assert all(u != v and 0 <= u < num_nodes and 0 <= v < num_nodes for u, v in columns(drawn))


def test_complete_graphs_are_refused():
    pairs = [(u, v) for u in range(4) for v in range(4)]
    for edges in (pairs, [p for p in pairs if p[0] != p[1]], pairs * 2):
        index = torch.tensor(edges).t()
        with pytest.raises(InvalidInputError, match="complete"):
            NegativeSampler(index, 4)
        assert NegativeSampler(index, 4, avoid_edges=False).sample(9).shape == (2, 9)
        assert NegativeSampler(index, 5).sample(9).max() == 4  # one more node: all pairs touch it
    # Only the given direction is refused, here of all pairs but (1, 0); self-loops alone fill no place.
    index = torch.tensor([[0, 0, 1, 2, 2], [1, 2, 2, 0, 1]])
    assert set(columns(NegativeSampler(index, 3).sample(20))) == {(1, 0)}
    assert NegativeSampler(torch.arange(4).repeat(2, 1), 4).sample(9).shape == (2, 9)
    for few in (0, 1):
        with pytest.raises(InvalidInputError, match="at least 2 nodes"):
            NegativeSampler(torch.empty(2, 0, dtype=torch.long), few)


def test_no_pair_holds_a_node_that_is_gone():
    drawn = NegativeSampler(EDGES, 7, gone=torch.arange(7) == 4).sample(2000)
    assert set(drawn.flatten().tolist()) == {0, 1, 2, 3, 5, 6}


def test_source_of_randomness():
    sampler = NegativeSampler(EDGES, 50)
    torch.manual_seed(0)
    first, second = sampler.sample(30), sampler.sample(30)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(sampler.sample(30), first)
    state = torch.get_rng_state()
    own = [sampler.sample(30, torch.Generator().manual_seed(4)) for _ in range(2)]
    assert torch.equal(*own)
    assert torch.equal(torch.get_rng_state(), state)


def test_many_nodes_need_no_matrix():
    num_nodes = 3_000_000  # N * N would be 9e12 places
    index = torch.randint(num_nodes, (2, 1000))
    drawn = NegativeSampler(index, num_nodes).sample(50_000)
    assert drawn.shape == (2, 50_000)
    assert drawn.max() > num_nodes * 0.99
    assert (drawn[0] > drawn[1]).float().mean().sub(0.5).abs() < 0.02


# Several types ################################################################

TYPES = torch.tensor([0, 1, 2, 0, 1, 1, 0, 1])


def types_of(pairs, kind=TYPES):
    return Counter(columns(kind[pairs]))


def test_pairs_are_uniform_among_those_that_join_the_types_of_an_edge():
    edges = torch.tensor([[0, 0, 3, 6, 1], [1, 4, 7, 1, 4]])  # types 0-1, and 1-1; nothing joins type 2
    like = edges[:, [0, 1, 4]].repeat(1, 4000)
    drawn = NegativeSampler(edges, 8, node_type=TYPES).sample(12_000, torch.Generator().manual_seed(0), like)
    assert types_of(drawn) == types_of(like)  # exactly as many of each
    for ends in {(0, 1), (1, 1)}:
        allowed = [(u, v) for u in range(8) for v in range(8) if u != v and (int(TYPES[u]), int(TYPES[v])) == ends]
        allowed = [pair for pair in allowed if pair not in columns(edges)]
        mine = drawn[:, [i for i, pair in enumerate(columns(TYPES[drawn])) if pair == ends]]
        assert chisquare(counts(mine, allowed)).pvalue > 1e-3
    assert set(types_of(NegativeSampler(edges, 8, node_type=TYPES).sample(500))) == {(0, 1), (1, 1)}  # of any edges
    gone = torch.arange(8) == 4
    assert 4 not in NegativeSampler(edges, 8, gone=gone, node_type=TYPES).sample(500).flatten().tolist()


def test_all_pairs_of_two_types_are_edges():
    full = torch.cartesian_prod(torch.tensor([0, 3, 6]), torch.tensor([1, 4, 5, 7])).t()
    more = torch.tensor([[1], [4]])
    sampler = NegativeSampler(torch.cat([full, more], dim=1), 8, node_type=TYPES)
    like = torch.cat([full, more.repeat(1, 5)], dim=1)
    assert types_of(sampler.sample(like.size(1), like=like)) == {(1, 1): 5}
    assert "at least 12 non-edges between nodes of types 0 and 1 for as many negatives (got 0)" in sampler.too_few(like)
    with pytest.raises(InvalidInputError, match="complete"):
        NegativeSampler(full, 8, node_type=TYPES)


def test_a_nearly_complete_graph_is_drawn_from_a_list():
    # Rejection alone would look at a million pairs for each of these.
    absent = {(7, 900), (900, 7), (3, 4)}
    u, v = (~torch.eye(1000, dtype=torch.bool)).nonzero().t()
    kept = torch.ones(1000, 1000, dtype=torch.bool)
    kept[[7, 900, 3], [900, 7, 4]] = False
    sampler = NegativeSampler(torch.stack([u, v])[:, kept[u, v]], 1000)
    drawn = sampler.sample(9000, torch.Generator().manual_seed(0))
    assert chisquare(counts(drawn, sorted(absent))).pvalue > 1e-3


@given(
    st.integers(2, 7),
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=40),
    st.booleans(),
    st.booleans(),
    st.integers(0, 20),
    st.integers(0, 20),
)
def test_distinct_pairs_are_distinct_or_refused(num_nodes, edges, undirected, typed, first, second):
    given_ones = {(u, v) for u, v in edges if u != v and max(u, v) < num_nodes}
    edges = sorted(both(given_ones) if undirected else given_ones)
    assume(edges)
    kind = torch.arange(num_nodes) % 2 if typed else torch.zeros(num_nodes, dtype=torch.long)
    one = (lambda pair: tuple(sorted(pair))) if undirected else (lambda pair: pair)

    def ends(pair):
        return one((int(kind[pair[0]]), int(kind[pair[1]])))

    pairs = [(u, v) for u in range(num_nodes) for v in range(num_nodes) if u != v]
    free = Counter(ends(pair) for pair in {one(p) for p in pairs} - {one(e) for e in edges})
    index = torch.tensor(edges).t()
    assume(sum(free[k] for k in {ends(e) for e in edges}) if typed else free)
    likes = [index[:, torch.arange(n) % index.size(1)] for n in (first, second)]
    need = Counter(ends(pair) for like in likes for pair in columns(like))
    sampler = NegativeSampler(index, num_nodes, node_type=kind if typed else None)
    if any(need[k] > free[k] for k in need):
        with pytest.raises(InvalidInputError, match=r"non-edges.* \(got \d+\).*at most \d+ %"):
            sampler.distinct(likes, undirected)
        return
    drawn = sampler.distinct(likes, undirected)
    assert [d.size(1) for d in drawn] == [first, second]
    together = [one(pair) for d in drawn for pair in columns(d)]
    assert len(set(together)) == first + second
    assert not set(together) & {one(e) for e in edges}
    assert Counter(map(ends, together)) == need


def test_only_repeats_are_drawn_again():
    index = torch.randint(40, (2, 60), generator=torch.Generator().manual_seed(0))
    sampler, likes = NegativeSampler(index, 40), [index[:, :20], index[:, 20:50]]
    changed = 0
    for seed in range(20):
        torch.manual_seed(seed)
        before = [sampler.sample(20), sampler.sample(30)]
        torch.manual_seed(seed)
        after = sampler.distinct(likes, undirected=False)
        repeats = 50 - len(set(columns(torch.cat(before, dim=1))))
        changed += repeats
        lost = sum(((Counter(columns(b)) - Counter(columns(a))).total() for b, a in zip(before, after, strict=True)))
        assert lost == repeats
    assert changed  # else nothing was tested


def grid(rows, cols):
    return nx.convert_node_labels_to_integers(nx.grid_2d_graph(rows, cols))


@pytest.mark.parametrize(
    ("graph", "sides"),
    [
        (nx.bipartite.random_graph(30, 12, 0.3, seed=0), True),
        (nx.bipartite.random_graph(30, 12, 0.03, seed=0), False),  # hardly any cycle: it may be an accident
        (nx.star_graph(60), False),
        (grid(8, 8), False),  # even cycles, but no two ranges of ids
        (nx.gnp_random_graph(40, 0.2, seed=0), False),
    ],
)
def test_a_bipartite_graph_is_known_by_ranges_of_ids(graph, sides):
    edges = torch.tensor([sorted(e) for e in graph.edges]).t()
    data = Data(edge_index=to_undirected(edges), num_nodes=graph.number_of_nodes())
    kinds = node_kinds(data)
    assert (kinds is not None) == sides
    if sides:
        assert bool((kinds[edges[0]] != kinds[edges[1]]).all())
        drawn = as_task("link_prediction").training_parts(data).sample(["non_edges"])["non_edges"].edge_label_index
        assert types_of(drawn, kinds) == types_of(edges, kinds)
        data.node_type = torch.zeros_like(kinds)  # the caller knows better
        assert node_kinds(data) is None


def test_every_draw_of_a_typed_graph_joins_types_that_edges_join():
    torch.manual_seed(0)
    edges = torch.stack([torch.randint(30, (90,)), torch.randint(30, 40, (90,))]).unique(dim=1)
    data = Data(x=torch.randn(40, 4), edge_index=to_undirected(edges), node_type=(torch.arange(40) >= 30).long())
    task = as_task("link_prediction")
    for parts in (task.training_parts(data), task.parts(gu.ForgetNodes([2, 33]).resolve(data))):
        drawn = parts.sample(["non_edges"])["non_edges"].edge_label_index
        assert set(types_of(drawn, data.node_type)) == {(0, 1)}
    kinds = data.node_type
    data.node_type = ["user"] * 30 + ["item"] * 10
    drawn = task.training_parts(data).sample(["non_edges"])["non_edges"].edge_label_index
    assert set(types_of(drawn, kinds)) == {(0, 1)}


def test_negatives_hold_nodes_of_the_retained_graph_alone():
    """Beside it a step reads the original graph of the forgotten features; its copies of nodes are no ends of pairs."""
    data = gu.link_split(gu.load("karate"), 0.1, 0.1)
    parts = as_task("link_prediction").parts(gu.ForgetFeatures([3, 7]).resolve(data))
    assert parts.data.num_nodes > 34
    assert all(parts.sample(["non_edges"])["non_edges"].edge_label_index.max() < 34 for _ in range(20))


def test_both_directions_of_two_types_share_their_pairs() -> None:
    """Of 16 pairs of two types 4 are absent: edges asked for in one direction and in the other take from the same 4."""
    pairs = torch.cartesian_prod(torch.arange(4), torch.arange(4, 8)).t()[:, 4:]
    index, kind = to_undirected(pairs), torch.arange(8) // 4
    sampler = NegativeSampler(index, 8, node_type=kind)
    drawn = torch.cat(sampler.distinct([pairs[:, :2], pairs[:, :2].flip(0)], undirected=True), dim=1)
    assert sorted(columns(drawn.sort(dim=0).values)) == [(0, v) for v in range(4, 8)]
    with pytest.raises(InvalidInputError, match=r"non-edges.* \(got 4\)"):
        sampler.distinct([pairs[:, :3], pairs[:, :3].flip(0)], undirected=True)


def test_each_drawn_pair_is_looked_up_once(monkeypatch) -> None:
    """And the draws are those of a sampler that looks at all pairs again after each replacement."""
    drawn, looked_up = [], []
    draw, refused = NegativeSampler._draw, NegativeSampler._refused
    monkeypatch.setattr(NegativeSampler, "_draw", lambda self, n, g: drawn.append(n) or draw(self, n, g))
    monkeypatch.setattr(
        NegativeSampler, "_refused", lambda self, key: looked_up.append(key.numel()) or refused(self, key)
    )
    edges = torch.randint(20, (2, 150), generator=torch.Generator().manual_seed(0))
    pairs = NegativeSampler(edges, 20).sample(500, torch.Generator().manual_seed(1))
    assert len(drawn) > 2
    assert sum(looked_up) == sum(drawn)
    barred = set(columns(edges)) | {(u, u) for u in range(20)}
    generator, left = torch.Generator().manual_seed(1), []
    while len(left) < 500:
        fresh = torch.randint(20, (2, 500 - len(left)), generator=generator)
        left += [pair for pair in columns(fresh) if pair not in barred]
    assert columns(pairs) == sorted(left)
