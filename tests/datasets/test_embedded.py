from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from gunlearn.datasets import available, load

EMBEDDED = [row for row in available() if row.embedded]


@pytest.mark.parametrize("row", EMBEDDED, ids=lambda row: row.name)
def test_canonical_form_and_counts(row):
    data = load(row.name, root="does/not/exist")  # no file is read
    assert data.num_nodes == row.nodes
    pairs = list(map(tuple, data.edge_index.t().tolist()))
    assert pairs == sorted(set(pairs))
    assert {(v, u) for u, v in pairs} == set(pairs)
    assert all(u != v for u, v in pairs)
    if row.edges is not None:
        assert len(pairs) == row.edges


def test_digits_edges_are_the_nearest_neighbours():
    data = load("digits")
    pixels = load_digits().data.astype(np.int64)
    assert np.array_equal(data.x.numpy() * 16, pixels)
    assert np.array_equal(data.y.numpy(), load_digits().target)
    # Independent: exact integer distances by brute force. Ties at the fifth place may go either way.
    squares = (pixels**2).sum(1)
    distance = squares[:, None] + squares[None] - 2 * pixels @ pixels.T
    np.fill_diagonal(distance, np.iinfo(np.int64).max)
    fifth = np.partition(distance, 4, axis=1)[:, 4]
    chosen = np.zeros_like(distance, dtype=bool)
    chosen[data.edge_index[0].numpy(), data.edge_index[1].numpy()] = True
    surely = distance < fifth[:, None]
    possibly = distance <= fifth[:, None]
    assert not (~chosen & (surely | surely.T)).any()
    assert not (chosen & ~(possibly | possibly.T)).any()


@pytest.mark.parametrize(("name", "graph"), [("karate", nx.karate_club_graph()), ("lesmis", nx.les_miserables_graph())])
def test_networkx_graphs(name, graph):
    data = load(name)
    adjacency = nx.to_numpy_array(graph, weight=None)
    rebuilt = np.zeros_like(adjacency)
    rebuilt[data.edge_index[0], data.edge_index[1]] = 1
    assert np.array_equal(rebuilt, adjacency)
    assert torch.equal(data.x, torch.eye(len(graph)))
    assert "edge_weight" not in data


def test_karate_labels_name_the_club():
    first = load("karate")
    clubs = [club for _, club in nx.karate_club_graph().nodes(data="club")]
    assert [["Mr. Hi", "Officer"][label] for label in first.y.tolist()] == clubs
    first.x.zero_()
    assert load("karate").x.sum() == 34  # every load is a new object
