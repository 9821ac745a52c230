"""Triples and positions of edges: read where it is certain what they are, else told by name."""

import warnings

import numpy as np
import pytest
import torch

import gunlearn as gu
from gunlearn.requests.pair_keys import comparable_keys, is_among, pair_key
from tests.requests.test_pair_lists import ring
from tests.tasks.cases import columns

TRIPLES = [(0, 5, 1), (1, 0, 2), (2, 1, 3), (3, 7, 4), (6, 2, 7)]  # (head, relation, tail): the middle looks like ids
LATER = [(0, 1, 70), (1, 2, 20), (2, 3, 30), (4, 5, 1), (6, 7, 2)]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("rows", [TRIPLES, LATER, [(*row, 9) for row in TRIPLES]])
def test_triples_lose_the_forgotten(rows, turned: bool) -> None:
    value = torch.tensor(rows).t().contiguous() if turned else torch.tensor(rows)
    data = ring(train_triples=value, train_triples_score=torch.arange(len(rows)))
    for request, gone in ((gu.ForgetEdges([(0, 1)]), [0]), (gu.ForgetNodes([2]), [1, 2])):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            retain = request.resolve(data).retain_data
        kept = [i for i in range(len(rows)) if i not in gone]
        left = retain.train_triples.t() if turned else retain.train_triples
        assert left.tolist() == [list(rows[i]) for i in kept]
        assert retain.train_triples_score.tolist() == kept


@pytest.mark.parametrize("few", [[(0, 1), (2, 3)], [(1, 0), (5, 4)], [(0, 1), (1, 2), (4, 5)], [(0, 1)]])
def test_few_pairs_are_read_in_either_direction(few) -> None:
    rows = torch.tensor(few)
    for value in (rows, rows.t().contiguous()):
        left = gu.ForgetEdges([(0, 1)]).resolve(ring(some_pairs=value)).retain_data.some_pairs
        left = left if value is rows else left.t()
        assert left.tolist() == [list(pair) for pair in few[1:]]


def test_held_out_triples_are_read_as_those_of_training() -> None:
    data = ring(train_triples=torch.tensor(TRIPLES), test_triples=torch.tensor([[5, 0, 2], [6, 3, 0]]))
    retain = gu.ForgetNodes([0]).resolve(data).retain_data
    assert retain.test_triples.tolist() == [[5, 0, 2]]  # 0 is its relation


def test_a_triple_goes_with_the_edge_of_its_relation() -> None:
    kinds = torch.arange(2).repeat_interleave(16)
    data = ring(edge_type=kinds, facts=torch.tensor([[0, 0, 1], [0, 1, 1], [2, 1, 3], [5, 0, 6]]))
    data.edge_index = torch.cat([data.edge_index] * 2, dim=1)
    retain = gu.ForgetEdges([(0, 1)], edge_type=1).resolve(data).retain_data
    assert retain.facts.tolist() == [[0, 0, 1], [2, 1, 3], [5, 0, 6]]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("triples", torch.tensor([[0, 1, 2], [2, 3, 4]])),  # both columns join edges, or neither does
        ("train_edges", torch.tensor([0, 3, 5])),
        ("distance", torch.ones(8, 8)),
        ("couples", torch.tensor([[0, 1], [2, 6], [3, 7]])),
    ],
)
def test_what_cannot_be_told_apart_is_told_by_name(name: str, value) -> None:
    data = ring(**{name: value})
    data.edge_index = torch.cat([data.edge_index, torch.tensor([[0, 2, 2, 4], [2, 0, 4, 2]])], dim=1)
    with pytest.warns(UserWarning, match=rf"'data.{name}' "):
        retain = gu.ForgetEdges([(0, 1)]).resolve(data).retain_data
    assert retain[name] is value


@pytest.mark.parametrize("kind", [torch.tensor, np.array, list])
def test_positions_are_counted_anew(kind) -> None:
    index = ring().edge_index
    positions = {"train_edge_ids": [2, 0, 9, 5], "val_edge_idx": [7, 1], "e_id": [15, 3]}
    data = ring(**{name: kind(ids) for name, ids in positions.items()}, edge_id=torch.arange(16) + 100)
    data.train_edge_ids_weight = torch.arange(4)
    retain = gu.ForgetEdges([(0, 1), (4, 5)]).resolve(data).retain_data
    gone = {(0, 1), (1, 0), (4, 5), (5, 4)}
    for name, ids in positions.items():
        named = [pair for pair in columns(index[:, ids]) if pair not in gone]
        assert columns(retain.edge_index[:, torch.as_tensor(retain[name])]) == named
        assert type(retain[name]) is type(data[name])
    assert retain.train_edge_ids_weight.tolist() == [0, 3]
    assert set(retain.edge_id.tolist()) == {100 + i for i, pair in enumerate(columns(index)) if pair not in gone}


def test_a_split_counts_positions_anew() -> None:
    data = gu.load("karate")
    data.train_edge_ids = torch.arange(0, data.num_edges, 3)
    split = gu.link_split(data, 0.1, 0.1)
    there = set(columns(split.edge_index))
    named = [pair for pair in columns(data.edge_index[:, data.train_edge_ids]) if pair in there]
    assert columns(split.edge_index[:, split.train_edge_ids]) == named


def test_masks_of_edges_go_with_them() -> None:
    mask = torch.arange(16) % 3 == 0
    data = ring(train_mask=mask, train_edge_mask=mask, train_edge_weight=torch.arange(16.0))
    retain = gu.ForgetEdges([(0, 1)]).resolve(data).retain_data
    for name in ("train_mask", "train_edge_mask", "train_edge_weight"):
        assert torch.equal(retain[name], data[name][2:])


def test_keys_are_equal_for_equal_pairs() -> None:
    big = 2**31
    pairs = torch.tensor([[big - 1, 0, 5, -1, 3, 3], [big - 1, 7, 0, 4, -1, big]])
    key = pair_key(pairs, big)
    assert key[:3].tolist() == [(big - 1) * big + big - 1, 7, 5 * big]
    assert key[3:].tolist() == [-1] * 3  # no pairs of the graph, and none of (2, big - 1)
    assert pair_key((pairs[0, :3].short(), pairs[1, :3]), 2**16).dtype == torch.long
    huge = {"a": torch.tensor([[2**40, 1], [2**41, 2]]), "b": torch.tensor([[1, 2**41], [2, 2**40]])}
    keys = comparable_keys(huge, 2**42)
    assert is_among(keys["a"], keys["b"]).tolist() == [False, True]


def test_padded_pairs_are_no_edges() -> None:
    """-1 stands for nobody: (1, -1) is not (0, 7)."""
    data = ring(edge_label_pairs=torch.tensor([[1, 0, 2], [-1, 7, 3]]))
    retain = gu.ForgetEdges([(0, 7)]).resolve(data).retain_data
    assert columns(retain.edge_label_pairs) == [(1, -1), (2, 3)]
