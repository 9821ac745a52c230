"""Prints of tensors: equal for equal content, and another one after every edit."""

import numpy as np
import pytest
import torch

from gunlearn.core.checksums import print_after, print_of
from gunlearn.core.large_pages import large_copy, room_for

#: Longer than several of the tables that are summed, and no multiple of one.
LONG = torch.arange(300_001)
WIDE = torch.rand(3_000, 128, generator=torch.Generator().manual_seed(0))


def _swapped(value: torch.Tensor, i: int, j: int) -> torch.Tensor:
    new = value.clone()
    new[[i, j]] = new[[j, i]]
    return new


@pytest.mark.parametrize("distance", [1, 2, 16, 64, 1021, 2042, 64 * 1021, 4 * 64 * 1021])
@pytest.mark.parametrize("at", [0, 5, 2_000])
def test_moved_values_are_seen(distance, at):
    assert print_of(_swapped(LONG, at, at + distance)) != print_of(LONG)


@pytest.mark.parametrize("distance", [1, 16, 510, 1021, 2042])
def test_moved_rows_are_seen(distance):
    assert print_of(_swapped(WIDE, 3, 3 + distance)) != print_of(WIDE)


@pytest.mark.parametrize("value", [LONG, WIDE, WIDE.double(), WIDE > 0.5, WIDE.bfloat16(), WIDE.to_sparse_csr()])
def test_the_same_content_has_the_same_print(value):
    assert print_of(value.clone()) == print_of(value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.bool, torch.uint8, torch.bfloat16])
@pytest.mark.parametrize("place", [0, 70_000, 299_999])
def test_one_entry_is_enough(dtype, place):
    value = torch.zeros(300_000).to(dtype)
    before = print_of(value)
    value[place] = 1
    assert print_of(value) != before


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "where", [slice(7, 8), slice(None), slice(None, None, 2), slice(3, None, 128), slice(0, 522_752 // 8), slice(0, 2)]
)
def test_a_changed_sign_is_seen(dtype, where):
    value = torch.rand(320_000, generator=torch.Generator().manual_seed(0), dtype=dtype) + 0.1
    before = print_of(value)
    value.numpy()[where] *= -1
    assert print_of(value) != before


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.zeros(4), torch.zeros(4, dtype=torch.int32)),
        (torch.zeros(4), torch.zeros(2, 2)),
        (np.zeros(3), np.zeros(4)),
        (["a", "b"], ["a", "c"]),
        (["a", "b"], ("a", "b")),
        ([[1], [2]], [[1], [3]]),
        ({"a": torch.zeros(2)}, {"a": torch.ones(2)}),
        (1, 2),
        ([-1, 3], [-2, 3]),
        ([1, 0], [True, 0.0]),
        (1, True),
    ],
)
def test_other_types_shapes_and_collections_differ(one, other):
    assert print_of(one) != print_of(other)


def test_what_is_laid_out_otherwise_but_equal_has_the_same_print():
    turned = WIDE.t().contiguous().t()
    assert not turned.is_contiguous()
    assert print_of(turned) == print_of(WIDE)


@pytest.mark.parametrize("rows", [[0], [1020, 1021], [2_999], [0, 1, 510, 1_500]])
def test_a_print_after_a_few_rows_is_that_of_the_whole(rows):
    new = WIDE.clone()
    new[rows] = 0
    assert print_after(print_of(WIDE), new, torch.tensor(rows)) == print_of(new) != print_of(WIDE)


def test_a_print_after_rows_of_something_else_reads_all():
    assert print_after(None, WIDE, torch.tensor([0])) == print_of(WIDE)
    assert print_after(print_of(LONG), WIDE, torch.tensor([0])) == print_of(WIDE)


@pytest.mark.parametrize("value", [WIDE, WIDE.bfloat16(), WIDE.repeat(6, 1), LONG, WIDE[:0], WIDE.t()])
def test_large_copies_are_copies(value):
    new = large_copy(value)
    assert torch.equal(new, value)
    assert (new.dtype, new.is_contiguous()) == (value.dtype, True)
    assert not new.numel() or new.data_ptr() % 64 == 0
    assert room_for((2, 3), value).shape == (2, 3)
