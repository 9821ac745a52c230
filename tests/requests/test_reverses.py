"""Reverses of forgotten edges that stay, in graphs that are symmetric but for some edges."""

import warnings

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.transforms import RandomLinkSplit
from torch_geometric.utils import to_undirected

import gunlearn as gu

RING = to_undirected(torch.stack([torch.arange(8), (torch.arange(8) + 1) % 8]))


def graph(edge_index: torch.Tensor) -> Data:
    return Data(edge_index=edge_index, num_nodes=8)


def almost() -> Data:
    """A ring whose last edge has lost its reverse."""
    lost = (RING[0] == 7) & (RING[1] == 6)
    assert int(lost.sum()) == 1
    return graph(RING[:, ~lost])


def test_a_reverse_that_stays_is_told() -> None:
    with pytest.warns(UserWarning, match=r"1 of 1 forgotten edges have a reverse that stays: 93\.3%"):
        partition = gu.ForgetEdges([(0, 1)]).resolve(almost())
    assert [1, 0] in partition.retain_edge_index.t().tolist()  # as it says


def test_drawn_edges_of_a_split_by_direction_are_told() -> None:
    split = RandomLinkSplit(num_val=0.0, num_test=0.2)(graph(RING))[0]
    with pytest.warns(UserWarning, match="have a reverse that stays"):
        gu.ForgetEdges(count=8).resolve(split)


@pytest.mark.parametrize(
    ("data", "edges"),
    [
        (graph(RING), [(0, 1)]),  # both directions go
        (almost(), [(0, 1), (1, 0)]),  # both are named
        (almost(), [(6, 7)]),  # it has none
        (graph(RING[:, RING[0] < RING[1]]), [(0, 1)]),  # no edge has one
        (graph(torch.tensor([[0, 1, 1, 2, 3, 4, 5, 5], [1, 0, 2, 3, 4, 5, 6, 5]])), [(0, 1)]),  # few have one
        (graph(torch.cat([almost().edge_index, torch.tensor([[3], [3]])], dim=1)), [(3, 3)]),  # a self-loop is its own
    ],
)
def test_nothing_is_told_where_no_reverse_was_meant(data: Data, edges: list[tuple[int, int]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gu.ForgetEdges(edges).resolve(data)


def test_forgotten_nodes_lose_both_directions() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = gu.ForgetNodes([0]).resolve(almost()).retain_edge_index
    assert not (kept == 0).any()
