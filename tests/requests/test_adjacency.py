"""Matrices of pairs of nodes: dense ones, those of SciPy, and one for each relation."""

import warnings

import pytest
import scipy.sparse as sp
import torch
from torch_geometric.data import HeteroData

import gunlearn as gu
from tests.requests.test_pair_lists import N, ring


def dense(index, size=N, value=1.0):
    return torch.zeros(size, size).index_put(tuple(index), torch.tensor(value))


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("adj", lambda m: m),
        ("A", lambda m: m.bool()),
        ("links", lambda m: (m * 3).long()),
        ("adjacency", lambda m: m.numpy().copy()),
        ("matrix", lambda m: sp.csr_matrix(m.numpy())),
        ("matrix", lambda m: sp.coo_matrix(m.numpy())),
        ("distances", lambda m: torch.stack([m, 2 * m], dim=2)),
    ],
)
def test_matrices_lose_forgotten_edges_and_nodes(name: str, make) -> None:
    matrix = dense(ring().edge_index) + torch.eye(N)
    data = ring(**{name: make(matrix)})
    before = make(matrix)
    for request in (gu.ForgetEdges([(2, 3)]), gu.ForgetNodes([5])):
        left = matrix.clone()
        if request.kind == "edges":
            left[2, 3] = left[3, 2] = 0
        else:
            left[5] = left[:, 5] = 0
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = request.resolve(data).retain_data[name]
        assert type(found) is type(before)
        assert abs(found - make(left)).sum() == 0 if sp.issparse(found) else (found == make(left)).all()
        assert abs(data[name] - before).sum() == 0 if sp.issparse(before) else (data[name] == before).all()


@pytest.mark.parametrize("layout", ["dense", torch.sparse_coo, torch.sparse_csr])
@pytest.mark.parametrize("first", ["buys", "likes"])
def test_a_relation_keeps_the_pair_that_another_one_loses(layout, first: str) -> None:
    """Users buy and like items: the same ids are joined by an edge of each."""
    buys, likes = torch.tensor([[0, 1, 2], [0, 1, 1]]), torch.tensor([[0, 1, 2, 2], [0, 1, 0, 1]])
    typed = HeteroData()
    typed["user"].x, typed["item"].x = torch.randn(3, 2), torch.randn(2, 2)
    typed["user", "buys", "item"].edge_index, typed["user", "likes", "item"].edge_index = buys, likes
    typed.validate()
    data = typed.to_homogeneous()
    number = {kind[1]: i for i, kind in enumerate(data._edge_type_names)}
    matrices = {r: dense(data.edge_index[:, data.edge_type == number[r]], 5) for r in ("buys", "likes")}
    for relation, matrix in matrices.items():
        data[f"adj_{relation}"] = matrix if layout == "dense" else matrix.to_sparse(layout=layout)
    other = "likes" if first == "buys" else "buys"
    retain = gu.ForgetEdges([(1, 4)], edge_type=number[first]).resolve(data).retain_data  # user 1, item 1
    expected = matrices[first].clone()
    expected[1, 4] = 0
    assert torch.equal(retain[f"adj_{first}"].to_dense(), expected)
    assert torch.equal(retain[f"adj_{other}"].to_dense(), matrices[other])
    whole = gu.ForgetEdges([(1, 4)]).resolve(data).retain_data  # of every relation
    assert all(whole[f"adj_{r}"].to_dense()[1, 4] == 0 for r in matrices)
