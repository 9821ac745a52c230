"""Negatives are uniform over the pairs that are no edges, and exactly as many as asked for."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import chisquare

from gunlearn.errors import InvalidInputError
from gunlearn.tasks import NegativeSampler
from tests.tasks.cases import columns

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
