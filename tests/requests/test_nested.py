"""Pairs in dicts, Python lists and sets lose what is forgotten, as Python's own filters do."""

import warnings

import networkx as nx
import numpy as np
import pytest
import torch

import gunlearn as gu
from tests.requests.test_pair_lists import ring
from tests.tasks.cases import columns

GONE = {(0, 1), (1, 0)}
PAIRS = [(1, 0), (2, 5), (3, 4), (0, 1), (6, 7)]
LEFT = [pair for pair in PAIRS if pair not in GONE]


def resolved(value, request=None, name="train_edges", **more):
    data = ring(**{name: value}, **more)
    retain = (request or gu.ForgetEdges([(0, 1)])).resolve(data).retain_data
    assert data[name] is value
    return retain[name]


@pytest.mark.parametrize("kind", [list, tuple, set, frozenset])
def test_python_lists_of_pairs(kind) -> None:
    assert resolved(kind(PAIRS)) == kind(LEFT)
    assert resolved(kind((*pair, 0.5 * i) for i, pair in enumerate(PAIRS))) == kind(
        (*pair, 0.5 * i) for i, pair in enumerate(PAIRS) if pair not in GONE
    )
    without = kind(LEFT)
    assert resolved(without) == without


def test_python_lists_of_rows() -> None:
    rows = [list(ends) for ends in zip(*PAIRS, strict=True)]
    assert resolved(rows, name="train_edge_list") == [list(ends) for ends in zip(*LEFT, strict=True)]


def test_lists_as_long_as_the_edges() -> None:
    pairs = columns(ring().edge_index)[::-1]
    names = [f"{u}-{v}" for u, v in columns(ring().edge_index)]
    data = ring(links=pairs, link_pairs=torch.tensor(pairs), edge_names=names, edge_code=torch.tensor(pairs) % 3)
    retain = gu.ForgetEdges([(0, 1)]).resolve(data).retain_data
    left = [pair for pair in pairs if pair not in GONE]
    assert retain.links == left
    assert retain.link_pairs.tolist() == [list(pair) for pair in left]
    assert retain.edge_names == [name for name in names if name not in ("0-1", "1-0")]
    assert torch.equal(retain.edge_code, data.edge_code[2:])  # two numbers of each edge


def test_dicts_like_those_of_ogb() -> None:
    pairs = torch.tensor(PAIRS)
    split = {
        "train": {"edge": pairs, "weight": torch.arange(5), "edge_neg": torch.tensor([[0, 1], [2, 7]]), "year": 2},
        "valid": {"head": pairs[:, 0].numpy(), "relation": torch.arange(5), "tail": pairs[:, 1].numpy()},
        "test": {"edge": torch.tensor([[3, 6]])},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        left = resolved(split, name="split_edge")
    kept = [i for i, pair in enumerate(PAIRS) if pair not in GONE]
    assert left["train"]["edge"].tolist() == [list(pair) for pair in LEFT]
    assert left["train"]["weight"].tolist() == left["valid"]["relation"].tolist() == kept
    assert left["train"]["edge_neg"] is split["train"]["edge_neg"]
    assert left["train"]["year"] == 2
    assert np.array_equal(np.stack([left["valid"]["head"], left["valid"]["tail"]]), np.array(LEFT).T)
    assert left["test"] is split["test"]
    left = resolved(split, gu.ForgetNodes([2]), name="split_edge")
    assert left["train"]["edge_neg"].tolist() == [[0, 1]]


def test_dicts_keyed_by_pairs_and_lists_of_tensors() -> None:
    assert resolved({(0, 1): 5.0, (2, 3): 1.0}, name="cost") == {(2, 3): 1.0}
    snapshots = [torch.tensor(PAIRS).t(), torch.tensor([[2], [3]])]
    left = resolved(snapshots, name="edge_snapshots")
    assert columns(left[0]) == LEFT
    assert left[1] is snapshots[1]


def test_dicts_by_relation() -> None:
    """A pair that two relations join leaves the list of one alone."""
    both = torch.cat([ring().edge_index] * 2, dim=1)
    kinds = torch.arange(2).repeat_interleave(16)
    lists = {0: torch.tensor([[0, 2], [1, 3]]), 1: torch.tensor([[0, 2], [1, 3]])}
    data = ring(pairs_by_relation=lists, edge_type=kinds)
    data.edge_index = both
    for relation in (0, 1):
        left = gu.ForgetEdges([(0, 1)], edge_type=relation).resolve(data).retain_data.pairs_by_relation
        assert columns(left[relation]) == [(2, 3)]
        assert left[1 - relation] is lists[1 - relation]


@pytest.mark.parametrize("kind", [list, set, torch.tensor])
def test_lists_of_neighbors(kind) -> None:
    lists = {u: sorted({(u - 1) % 8, (u + 1) % 8}) for u in range(8)}
    expected = {u: [v for v in near if {u, v} != {0, 1}] for u, near in lists.items()}
    left = resolved({u: kind(near) for u, near in lists.items()}, name="neighbors")
    assert {u: sorted(near.tolist() if kind is torch.tensor else near) for u, near in left.items()} == expected
    groups = {0: [1, 5], 1: [0, 3]}  # no neighbours
    assert resolved(groups, name="groups") is groups


def test_a_graph_of_another_library_is_told() -> None:
    with pytest.warns(UserWarning, match=r"'data.nx' is a graph of its own \(Graph\)"):
        gu.ForgetEdges([(0, 1)]).resolve(ring(nx=nx.cycle_graph(8)))


def test_dicts_by_types_of_nodes_are_told() -> None:
    data = ring(node_type=torch.arange(8) // 4, edges_by_type={("a", "to", "b"): torch.tensor([[0], [1]])})
    with pytest.warns(UserWarning, match=r"'data.edges_by_type' holds lists by types of nodes"):
        retain = gu.ForgetEdges([(0, 1)]).resolve(data).retain_data
    assert retain.edges_by_type is data.edges_by_type
