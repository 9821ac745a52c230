"""Entries of tensors without some: by pieces where few go, by index else."""

import pytest
import torch

from gunlearn.requests.entries import select_entries

SIZE = 600  # of which one and two are few enough for pieces


@pytest.mark.parametrize("shape", [(SIZE,), (2, SIZE), (SIZE, 3), (4, SIZE, 2)])
@pytest.mark.parametrize("gone", [[0], [SIZE - 1], [5, 6], [*range(0, SIZE, 2)], []])
@pytest.mark.parametrize("negative", [False, True])
def test_they_are_those_of_an_index(shape, gone, negative):
    value, dim, keep = torch.rand(shape), shape.index(SIZE), torch.ones(SIZE, dtype=torch.bool)
    keep[gone] = False
    found = select_entries(value, keep, dim - len(shape) if negative else dim)
    assert found.equal(value.index_select(dim, keep.nonzero().view(-1)))


def test_a_gradient_goes_through():
    value, keep = torch.rand(SIZE, requires_grad=True), torch.arange(SIZE) != 3
    select_entries(value, keep, 0).sum().backward()
    assert value.grad.equal(keep.float())
