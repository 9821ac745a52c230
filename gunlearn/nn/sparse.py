"""CSR kernels: sparse-dense products and edge scores, with hand-written gradients.

Gather-scatter message passing moves `[num_edges, dim]` tensors through memory three times a layer; a CSR product moves
none. The gradient of `A @ x` is `A^T @ grad`, so both matrices are built once and kept.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from gunlearn.errors import InvalidInputError
from gunlearn.nn.memo import memo

with warnings.catch_warnings():  # torch says once that CSR is in beta; nobody who unlearns an edge needs to know
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), size=(1, 1))


@dataclass(frozen=True)
class SparseMatrix:
    """A constant sparse matrix and its transpose, both CSR.

    Args:
        matrix: `[num_rows, num_cols]`, `torch.sparse_csr`.
        transpose: `[num_cols, num_rows]`, `torch.sparse_csr`; the same object where the matrix is symmetric.
    """

    matrix: Tensor
    transpose: Tensor

    @property
    def shape(self) -> torch.Size:
        """`[num_rows, num_cols]`."""
        return self.matrix.shape

    def __matmul__(self, x: Tensor) -> Tensor:
        """Multiply with a dense `[num_cols, dim]` matrix; differentiable with respect to `x`, to any order."""
        return _SpMM.apply(self.matrix, self.transpose, x)


def _product(matrix: Tensor, x: Tensor) -> Tensor:
    """`matrix @ x` into a new tensor; on CPU three times as fast as the operator, which first fills and copies."""
    out = x.new_empty(matrix.size(0), x.size(1))
    return torch.addmm(out, matrix, x, beta=0, out=out)


class _SpMM(torch.autograd.Function):
    @staticmethod
    def forward(ctx, matrix: Tensor, transpose: Tensor, x: Tensor) -> Tensor:
        ctx.matrix, ctx.transpose = matrix, transpose
        return _product(matrix, x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[None, None, Tensor]:
        return None, None, _SpMM.apply(ctx.transpose, ctx.matrix, grad.contiguous())


def argsort(key: Tensor, stable: bool = False) -> Tensor:
    """Order of integer keys; on CPU numpy's vectorised sort, which takes half the time of torch's."""
    if key.device.type != "cpu":
        return key.argsort(stable=stable)
    return torch.from_numpy(np.argsort(key.numpy(), kind="stable" if stable else "quicksort"))


def sort(key: Tensor) -> Tensor:
    """Sorted integer keys; on CPU numpy's vectorised sort, several times as fast as torch's."""
    return key.sort()[0] if key.device.type != "cpu" else torch.from_numpy(np.sort(key.numpy()))


def csr(row: Tensor, col: Tensor, value: Tensor, size: tuple[int, int]) -> Tensor:
    """A CSR tensor from entries in any order; repeated entries stay repeated (products add them up)."""
    order = argsort(row * size[1] + col, stable=True)
    crow = torch._convert_indices_from_coo_to_csr(row[order], size[0])
    return torch.sparse_csr_tensor(crow, col[order], value[order], size=size, check_invariants=False)


def sparse_matrix(row: Tensor, col: Tensor, value: Tensor, size: tuple[int, int]) -> SparseMatrix:
    """Build a `SparseMatrix` from entries in any order.

    Args:
        row: row of each entry, `[num_entries]`.
        col: column of each entry, `[num_entries]`.
        value: `[num_entries]`, floating point.
        size: `(num_rows, num_cols)`.
    """
    matrix, transpose = csr(row, col, value, size), csr(col, row, value, size[::-1])
    same = (
        size[0] == size[1]
        and torch.equal(matrix.crow_indices(), transpose.crow_indices())
        and torch.equal(matrix.col_indices(), transpose.col_indices())
        and torch.equal(matrix.values(), transpose.values())
    )
    return SparseMatrix(matrix, matrix if same else transpose)


MAX_DENSITY = 0.05  # above it a dense product is faster


def sparse_features(x: Tensor) -> SparseMatrix | None:
    """Bag-of-words features as a sparse matrix, or `None` where a dense product is as good.

    Args:
        x: `[num_nodes, num_features]`, dense or CSR. Made once per tensor. `None` comes back for features that need a
            gradient and for dtypes without a sparse product (half precision, integers).
    """

    def build() -> SparseMatrix | None:
        if x.layout == torch.sparse_csr:
            count = x.crow_indices().diff()
            row = torch.repeat_interleave(torch.arange(x.size(0), device=x.device), count)
            return sparse_matrix(row, x.col_indices(), x.values(), tuple(x.shape))
        if x.layout != torch.strided or x.dim() != 2 or x.size(1) < 64:
            return None
        if int(x.count_nonzero()) > MAX_DENSITY * x.numel():
            return None
        row, col = x.nonzero(as_tuple=True)
        return sparse_matrix(row, col, x[row, col], tuple(x.shape))

    if x.requires_grad or x.dtype not in (torch.float32, torch.float64):
        return None
    return memo(x, "sparse_features", build)


class EdgePattern:
    """A fixed set of node pairs, laid out so that their inner products and gradients are two sparse products.

    Args:
        edge_index: node pairs `[2, num_pairs]`; repeated pairs and self pairs are allowed.
        num_nodes: number of rows of the embeddings.

    Raises:
        InvalidInputError: a wrong shape, or ids outside `[0, num_nodes)` (the kernels would read and write elsewhere).
    """

    def __init__(self, edge_index: Tensor, num_nodes: int) -> None:
        """See the class."""
        if edge_index.dim() != 2 or edge_index.size(0) != 2:
            raise InvalidInputError(f"Expected 'edge_index' of shape [2, num_pairs] (got {tuple(edge_index.shape)})")
        if edge_index.numel():
            low, high = edge_index.aminmax()
            if low < 0 or high >= num_nodes:
                raise InvalidInputError(f"Expected node ids in [0, {num_nodes}) (got ids from {low} to {high})")
        self.edge_index, self.num_nodes = edge_index, num_nodes

    @cached_property
    def upper(self) -> tuple[Tensor, Tensor, Tensor]:
        """Row pointer, columns and, for each CSR slot, the pair it holds."""
        row, col = self.edge_index
        order = argsort(row * self.num_nodes + col)
        return torch._convert_indices_from_coo_to_csr(row[order], self.num_nodes), col[order], order

    @cached_property
    def both(self) -> tuple[Tensor, Tensor, Tensor]:
        """The same for the symmetric pattern, which the gradient needs."""
        row, col = torch.cat([self.edge_index, self.edge_index.flip(0)], dim=1)
        order = argsort(row * self.num_nodes + col)
        pointer = torch._convert_indices_from_coo_to_csr(row[order], self.num_nodes)
        return pointer, col[order], order % self.edge_index.size(1)

    def inner_product(self, z: Tensor) -> Tensor:
        """`<z_u, z_v>` for every pair: `[num_pairs]`; differentiable to any order.

        Args:
            z: node embeddings `[num_nodes, dim]`.
        """
        if z.size(0) != self.num_nodes:
            raise InvalidInputError(f"Expected embeddings of {self.num_nodes} nodes (got {z.size(0)} rows)")
        num_pairs = self.edge_index.size(1)
        # Few pairs are as fast without the kernel; more than all N * N places (repeats) it refuses.
        if z.dtype not in (torch.float32, torch.float64) or not 1024 <= num_pairs <= self.num_nodes**2:
            return gather_inner_product(z, self.edge_index)
        return _InnerProduct.apply(z, self)


def gather_inner_product(z: Tensor, edge_index: Tensor) -> Tensor:
    """The plain formulation of `EdgePattern.inner_product`: any dtype, any order of differentiation."""
    return (z.index_select(0, edge_index[0]) * z.index_select(0, edge_index[1])).sum(dim=-1)


class _InnerProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z: Tensor, pattern: EdgePattern) -> Tensor:
        pointer, col, order = pattern.upper
        size = (pattern.num_nodes, pattern.num_nodes)
        dense = z.contiguous()
        empty = torch.sparse_csr_tensor(pointer, col, z.new_zeros(col.numel()), size=size, check_invariants=False)
        score = torch.sparse.sampled_addmm(empty, dense, dense.t(), beta=0.0).values()
        ctx.save_for_backward(z)  # the input itself: a copy made here would be a constant in the second derivative
        ctx.pattern = pattern
        return torch.empty_like(score).index_copy_(0, order, score)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (z,), pattern = ctx.saved_tensors, ctx.pattern
        if torch.is_grad_enabled():  # create_graph=True: the plain form, whose gradient torch knows
            u, v = pattern.edge_index
            out = torch.zeros_like(z).index_add(0, u, grad.unsqueeze(-1) * z[v])
            return out.index_add(0, v, grad.unsqueeze(-1) * z[u]), None
        pointer, col, pair = pattern.both
        size = (pattern.num_nodes, pattern.num_nodes)
        both = torch.sparse_csr_tensor(pointer, col, grad[pair], size=size, check_invariants=False)
        return _product(both, z), None
