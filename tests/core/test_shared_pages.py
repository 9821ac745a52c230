"""Copies of a tensor that share its memory: they are copies all the same, and cost what is written to them."""

import gc
import os
from pathlib import Path

import pytest
import torch

from gunlearn.core.shared_pages import Image, can_share

LARGE = torch.rand(20_000, 128, generator=torch.Generator().manual_seed(0))
pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="Linux alone has such files")


@pytest.mark.parametrize("value", [LARGE, LARGE.double(), LARGE.bfloat16(), LARGE.view(-1), LARGE.view(40, 500, 128)])
def test_they_are_copies(value):
    image = Image(value)
    one, other = image.copy(), image.copy()
    assert one.equal(value)
    assert one.dtype == value.dtype
    assert one.is_contiguous()
    one[0] = 7
    assert other.equal(value)
    assert not one.equal(value)
    assert image.copy().equal(value)
    assert one.clone().add_(1).sub_(1).shape == value.shape


def test_what_is_not_written_to_takes_no_memory():
    def own_pages() -> int:  # kB of memory that this process alone has
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Dirty", "Anonymous")))

    image = Image(LARGE)
    gc.collect()
    before = own_pages()
    copies = [image.copy() for _ in range(20)]  # 200 MB, if they were written
    for copy in copies:
        copy[3] = 0
    assert own_pages() - before < 20_000


def test_files_are_closed_with_the_tensors():
    before = len(os.listdir("/proc/self/fd"))
    image = Image(LARGE)
    copies = [image.copy() for _ in range(5)]
    assert len(os.listdir("/proc/self/fd")) > before
    del image, copies
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("value", "able"),
    [
        (LARGE, True),
        (LARGE[:100], False),
        (LARGE.t(), False),
        (LARGE.to_sparse_csr(), False),
        (LARGE.to("meta"), False),
    ],
)
def test_small_and_other_tensors_are_copied_as_ever(value, able):
    assert can_share(value) == able
