"""Bag-of-words features as sparse matrices, built once per tensor."""

import torch
from torch import Tensor

from gunlearn.nn.kernels.memo import memo, remembered
from gunlearn.nn.kernels.sparse import SparseMatrix, row_of_entries, sparse_matrix
from gunlearn.nn.kernels.switch import KERNEL_DTYPES, kernels_allowed

MAX_DENSITY = 0.05  # above it a dense product is faster, and a sparse matrix hardly smaller


def sparse_features(x: Tensor) -> SparseMatrix | None:
    """Return features `[num_nodes, num_features]`, dense or CSR, as a sparse matrix; `None` if dense is as good.

    Features that need a gradient and dtypes without a sparse product (half precision, integers) give `None` too.
    """

    def build() -> SparseMatrix | None:
        if x.layout == torch.sparse_csr:
            return sparse_matrix(
                row_of_entries(x.crow_indices()), x.col_indices().long(), x.values(), (x.size(0), x.size(1))
            )
        if x.layout != torch.strided or x.dim() != 2 or x.size(1) < 64:
            return None
        if int(x.count_nonzero()) > MAX_DENSITY * x.numel():
            return None
        row, col = x.nonzero(as_tuple=True)
        return sparse_matrix(row, col, x[row, col], (x.size(0), x.size(1)))

    if x.requires_grad or x.dtype not in KERNEL_DTYPES or (x.layout == torch.strided and not kernels_allowed()):
        return None
    return memo(x, "sparse_features", build)


def share_sparse(x: Tensor, copy: Tensor) -> None:
    """Give a copy of dense features the sparse matrix of `x`, so that it is not built again."""
    memo(copy, "sparse_features", lambda: sparse_features(x))


def known_sparse(x: object) -> SparseMatrix | None:
    """Return `sparse_features` of a CSR tensor; of a dense one only if built before (no zeros are counted)."""
    if not isinstance(x, Tensor) or x.requires_grad:
        return None
    if x.layout == torch.sparse_csr:
        return sparse_features(x)
    return remembered(x, "sparse_features") if kernels_allowed() else None


def dense_parts(x: Tensor) -> tuple[Tensor, ...]:
    """Return a tensor's dense parts: itself, or its indices and values."""
    if x.layout == torch.sparse_csr:
        return x.crow_indices(), x.col_indices(), x.values()
    if x.layout == torch.sparse_coo:
        return x._indices(), x._values()
    return (x,)
