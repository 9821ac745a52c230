"""Columns found by their ends, held against comparisons of all with all."""

import pytest
import torch

from gunlearn.requests.pair_index import PairIndex

NODES = 9


def _graph(seed: int, undirected: bool, in_order: bool) -> torch.Tensor:
    """Return random pairs with copies and self-loops."""
    edges = torch.randint(NODES, (2, 40), generator=torch.Generator().manual_seed(seed))
    edges = torch.cat([edges, edges.flip(0)], dim=1) if undirected else edges
    return edges[:, (edges[0] * NODES + edges[1]).argsort()] if in_order else edges


def _same_pair(edges: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    return (edges[:, :, None] == pairs[:, None, :]).all(dim=0)  # [E, k]


def _one_way(edges: torch.Tensor) -> int:
    pairs = set(map(tuple, edges.t().tolist()))
    return sum((v, u) not in pairs for u, v in pairs)


def _check(index: PairIndex, edges: torch.Tensor) -> None:
    every = torch.cartesian_prod(torch.arange(NODES), torch.arange(NODES)).t()
    columns, at = index.find(every)
    assert set(zip(columns.tolist(), at.tolist(), strict=True)) == set(
        map(tuple, _same_pair(edges, every).nonzero().tolist())
    )
    assert torch.equal(index.contains(every), _same_pair(edges, every).any(dim=0))
    nodes = torch.tensor([0, 3, 4, 8])
    for (columns, at), ends in ((index.leaving(nodes), edges[0]), (index.arriving(nodes), edges[1])):
        assert set(zip(columns.tolist(), at.tolist(), strict=True)) == set(
            map(tuple, (ends[:, None] == nodes).nonzero().tolist())
        )
    assert (
        index.columns_of(every[:, :20]).sort().values.tolist()
        == _same_pair(edges, every[:, :20]).any(dim=1).nonzero().view(-1).tolist()
    )
    assert index.one_way == _one_way(edges)


@pytest.mark.parametrize("undirected", [True, False])
@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_lookups_are_those_of_brute_force_after_every_removal(seed, undirected, in_order, monkeypatch):
    monkeypatch.setattr("gunlearn.requests.pair_index._GONE", 1.0)
    edges = _graph(seed, undirected, in_order)
    index = PairIndex.of(edges, NODES)
    _check(index, edges)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(6):
        pair = edges[:, torch.randint(edges.size(1), (2,), generator=draw)]
        pair = torch.cat([pair, pair.flip(0)], dim=1) if undirected else pair
        gone = _same_pair(edges, pair).any(dim=1)
        index = index.without(gone.nonzero().view(-1), edges)
        edges = edges[:, ~gone]
        _check(index, edges)


def test_pairs_outside_the_graph_are_not_found():
    index = PairIndex.of(torch.tensor([[0, 1], [1, 0]]), 2)
    outside = torch.tensor([[-1, 2, 0, 1], [0, 1, 2, 1]])
    assert not index.contains(outside).any()
    assert not index.find(outside)[0].numel()


def test_an_index_with_many_gone_is_made_anew():
    edges = torch.stack([torch.arange(20), torch.arange(1, 21)])
    index = PairIndex.of(edges, 21)
    assert index.without(torch.arange(2), edges) is not None
    assert index.without(torch.arange(3), edges) is None
