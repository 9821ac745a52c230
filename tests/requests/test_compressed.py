"""Compressed lists of neighbours stay right without what is forgotten, as SciPy compresses the retained edges."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import gunlearn as gu
from tests.requests.test_pair_lists import N, ring


def compressed(edge_index, weight, kind: str):
    row, col = edge_index.numpy()
    matrix = sp.coo_matrix((weight, (row, col)), (N, N))
    return (matrix.tocsc() if kind == "colptr" else matrix.tocsr()).sorted_indices()


@pytest.mark.parametrize(
    "names", [("rowptr", "col", "value"), ("colptr", "row", "value"), ("indptr", "indices", "data")], ids=str
)
@pytest.mark.parametrize("request_", [gu.ForgetEdges([(2, 3)]), gu.ForgetNodes([3])], ids=["edges", "nodes"])
@pytest.mark.parametrize("inside", [False, True])
def test_pointers_and_neighbours_go_together(names, request_, inside: bool) -> None:
    data = ring(directed=True)
    weight = np.arange(1.0, data.num_edges + 1)
    whole = compressed(data.edge_index, weight, names[0])
    parts = dict(zip(names, map(torch.from_numpy, (whole.indptr, whole.indices, whole.data)), strict=True))
    if inside:
        data.near = parts
    else:
        data.update(parts)
    partition = request_.resolve(data)
    retain = partition.retain_data
    want = compressed(retain.edge_index, weight[~partition.forget_mask.numpy()], names[0])
    got = retain.near if inside else retain
    for name, array in zip(names, (want.indptr, want.indices, want.data), strict=True):
        assert got[name].tolist() == array.tolist(), name
        assert got[name].dtype == parts[name].dtype


def test_neighbours_that_are_no_edges_are_told_and_stay() -> None:
    data = ring(rowptr=torch.arange(N + 1) * 2, col=torch.arange(N).repeat(2))
    with pytest.warns(UserWarning, match="'data.rowptr' and 'data.col' list neighbours that are no edges"):
        retain = gu.ForgetEdges([(0, 1)]).resolve(data).retain_data
    assert retain.rowptr is data.rowptr
    assert retain.col is data.col
