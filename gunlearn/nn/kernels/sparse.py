"""CSR kernels: sparse-dense products and sampled dense-dense products, with hand-written gradients.

Gather-scatter moves `[num_edges, dim]` tensors through memory three times a layer; a CSR product moves none. The
gradient of `A @ x` is `A^T @ grad` (both matrices are built once and kept); that of the stored values is `grad @ x^T`
at the stored places.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from gunlearn.core.sorting import lexsort
from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.nn.kernels.switch import in_transform, warn_second_order

with warnings.catch_warnings():  # torch warns once that CSR is in beta
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), size=(1, 1))


@dataclass(frozen=True, eq=False)
class SparseMatrix:
    """A sparse matrix and its transpose, both CSR.

    Args:
        matrix: `[num_rows, num_cols]`, `torch.sparse_csr`, constant.
        transpose: `[num_cols, num_rows]`, `torch.sparse_csr`; the same object if the matrix is symmetric.
        values: differentiable values in the order of `matrix`, `[num_entries]`; `None` for the constants in `matrix`.
    """

    matrix: Tensor
    transpose: Tensor
    values: Tensor | None = None
    parts: tuple[Tensor, Tensor, Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Kept: inside `torch.func` transforms the matrix does not return its parts.
        parts = self.matrix.crow_indices(), self.matrix.col_indices(), self.matrix.values()
        object.__setattr__(self, "parts", parts)

    @property
    def shape(self) -> torch.Size:
        return self.matrix.shape

    @cached_property
    def rows(self) -> Tensor:
        """Row of each stored entry, `[num_entries]`."""
        return row_of_entries(self.parts[0])

    @cached_property
    def transposed_order(self) -> Tensor:
        """Place in `matrix` of each entry of the transpose, `[num_entries]`."""
        return lexsort(self.matrix.col_indices(), self.rows)

    def with_values(self, values: Tensor) -> SparseMatrix:
        """Return a matrix with other values `[num_entries]` at the same places; they may need a gradient.

        Another number of values raises `InvalidInputError`.
        """
        if values.shape != self.matrix.values().shape:
            raise InvalidInputError(
                f"Expected one value for each of {self.matrix.values().numel()} entries (got {tuple(values.shape)})"
            )
        out = SparseMatrix(self.matrix, self.transpose, values)
        for name in ("rows", "transposed_order"):  # shared between all sets of values
            if values.requires_grad:
                out.__dict__[name] = getattr(self, name)
        return out

    def __matmul__(self, x: Tensor) -> Tensor:
        """Multiply with a dense matrix `[num_cols, dim]` of the same dtype; differentiable in `x` to any order.

        Where the values need a gradient, the first order runs on kernels; the second falls back to gather-scatter, with
        a `PlainPathWarning`.

        Raises:
            InvalidTypeError: another dtype (half precision has no kernel).
            InvalidInputError: another number of rows.
        """
        dtype = self.matrix.dtype if self.values is None else self.values.dtype
        if x.dtype != dtype:
            raise InvalidTypeError(f"Expected a matrix of {dtype} to multiply with (got {x.dtype})")
        if x.dim() != 2 or x.size(0) != self.shape[1]:
            raise InvalidInputError(f"Expected a matrix of shape [{self.shape[1]}, dim] (got {tuple(x.shape)})")
        if in_transform():
            _, col, constant = self.parts
            messages = (constant if self.values is None else self.values).unsqueeze(-1) * x[col]
            return x.new_zeros(self.shape[0], x.size(1)).index_add(0, self.rows, messages)
        if self.values is None:
            return _SpMM.apply(self.matrix, self.transpose, x)
        return _LearnedSpMM.apply(self.values, x, self)


def _with(pattern: Tensor, values: Tensor) -> Tensor:
    """Return a CSR tensor with the places of `pattern`."""
    return csr_tensor(pattern.crow_indices(), pattern.col_indices(), values, pattern.shape)


#: Columns that are multiplied together where the rows of `x` are read again and again, and bytes of them that a core's
#: own cache holds.
_BLOCK, _CACHE = 32, 2**21


def multiply(matrix: Tensor, x: Tensor, add_to: Tensor | None = None) -> Tensor:
    """Return `matrix @ x`, or add it to a tensor in place; on CPU three times as fast as `@`, which copies."""
    if add_to is not None:
        return torch.addmm(add_to, matrix, x, out=add_to)
    out = x.new_empty(matrix.size(0), x.size(1))
    if not _is_reread(matrix, x):
        return torch.addmm(out, matrix, x, beta=0, out=out)
    for columns, into in zip(x.split(_BLOCK, dim=1), out.split(_BLOCK, dim=1), strict=True):
        torch.addmm(into, matrix, columns.contiguous(), beta=0, out=into)
    return out


def _is_reread(matrix: Tensor, x: Tensor) -> bool:
    """Return whether a product reads each row of `x` so often that a copy of a few columns in the cache pays."""
    size = x.size(0) * x.element_size()
    often = matrix.device.type == "cpu" and matrix._nnz() >= 32 * x.size(0)
    return often and size * x.size(1) > _CACHE and size * _BLOCK <= 1.5 * _CACHE


class _SpMM(torch.autograd.Function):
    @staticmethod
    def forward(ctx, matrix: Tensor, transpose: Tensor, x: Tensor) -> Tensor:
        ctx.matrix, ctx.transpose = matrix, transpose
        return multiply(matrix, x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[None, None, Tensor]:
        return None, None, _SpMM.apply(ctx.transpose, ctx.matrix, grad.contiguous())


class _LearnedSpMM(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor, x: Tensor, pattern: SparseMatrix) -> Tensor:
        ctx.save_for_backward(values, x)
        ctx.pattern = pattern
        return multiply(_with(pattern.matrix, values), x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (values, x), pattern = ctx.saved_tensors, ctx.pattern
        by_values = by_x = None
        if torch.is_grad_enabled():  # create_graph=True
            warn_second_order("a sparse product with learned values")
            row, col = pattern.rows, pattern.matrix.col_indices()
            if ctx.needs_input_grad[0]:
                by_values = (grad[row] * x[col]).sum(dim=-1)
            if ctx.needs_input_grad[1]:
                by_x = torch.zeros_like(x).index_add(0, col, values.unsqueeze(-1) * grad[row])
            return by_values, by_x, None
        grad = grad.contiguous()
        if ctx.needs_input_grad[0]:
            by_values = sddmm(pattern.matrix, grad, x)
        if ctx.needs_input_grad[1]:
            by_x = multiply(_with(pattern.transpose, values[pattern.transposed_order]), grad)
        return by_values, by_x, None


def sddmm(pattern: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return `<a_i, b_j>` at each stored place `(i, j)`, `[num_entries]` in CSR order; not differentiable.

    Only the places of `pattern` (CSR `[num_rows, num_cols]`) are read; `a` is `[num_rows, dim]`, `b` `[num_cols, dim]`.
    """
    num_entries = pattern.col_indices().numel()
    # The kernel refuses more entries than places (repeated entries).
    if num_entries > pattern.size(0) * pattern.size(1):
        row = row_of_entries(pattern.crow_indices())
        return (a.index_select(0, row) * b.index_select(0, pattern.col_indices())).sum(dim=-1)
    empty = _with(pattern, a.new_zeros(num_entries))
    return torch.sparse.sampled_addmm(empty, a.contiguous(), b.contiguous().t(), beta=0.0).values()


def csr(row: Tensor, col: Tensor, value: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a CSR tensor of entries in any order; repeated entries stay (products add them up)."""
    order = lexsort(row, col)
    return csr_tensor(*csr_places(row[order], col[order], size), value[order], size)


def csr_places(row: Tensor, col: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return row pointer and columns of sorted entries, in 32 bits where possible, as the kernels want them."""
    pointer = torch._convert_indices_from_coo_to_csr(row, size[0])
    small = max(row.numel(), *size) < 2**31
    return (pointer.int(), col.int()) if small else (pointer, col)


def row_of_entries(pointer: Tensor) -> Tensor:
    """Return the row of each stored entry, from the row pointer of a CSR tensor."""
    return torch.repeat_interleave(torch.arange(pointer.numel() - 1, device=pointer.device), pointer.diff())


def csr_tensor(pointer: Tensor, col: Tensor, value: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Return a CSR tensor of these parts, unchecked."""
    return torch.sparse_csr_tensor(pointer, col, value, size=size, check_invariants=False)


def sparse_matrix(row: Tensor, col: Tensor, value: Tensor, size: tuple[int, int]) -> SparseMatrix:
    """Build a `SparseMatrix` of `size` `(num_rows, num_cols)` from entries in any order.

    `row`, `col` and floating-point `value` are `[num_entries]`; the matrix needs a gradient if `value` does. Ids
    outside the matrix raise `InvalidInputError`: the kernels would access other memory.
    """
    for name, index, limit in (("row", row, size[0]), ("col", col, size[1])):
        check_indices(name, index, limit)
    constant = value.detach()
    matrix = csr(row, col, constant, size)
    transpose = csr(col, row, constant, size[::-1])
    same = (
        size[0] == size[1]
        and torch.equal(matrix.crow_indices(), transpose.crow_indices())
        and torch.equal(matrix.col_indices(), transpose.col_indices())
        and torch.equal(matrix.values(), transpose.values())
    )
    built = SparseMatrix(matrix, matrix if same else transpose)
    return built.with_values(value[lexsort(row, col)]) if value.requires_grad else built


def pattern_of(
    row: Tensor, col: Tensor, size: tuple[int, int], dtype: torch.dtype = torch.float32
) -> tuple[SparseMatrix, Tensor]:
    """Return a matrix of ones for `SparseMatrix.with_values`, and the order of the entries in it, `[num_entries]`.

    Two sorts in all, that of the transpose included. Ids outside the matrix raise `InvalidInputError`.
    """
    for name, index, limit in (("row", row, size[0]), ("col", col, size[1])):
        check_indices(name, index, limit)
    order = lexsort(row, col)
    row, col = row[order], col[order]
    back, ones = lexsort(col, row), torch.ones(row.numel(), dtype=dtype, device=row.device)
    matrix = csr_tensor(*csr_places(row, col, size), ones, size)
    built = SparseMatrix(matrix, csr_tensor(*csr_places(col[back], row[back], size[::-1]), ones, size[::-1]))
    built.__dict__.update(rows=row, transposed_order=back)
    return built, order


def check_indices(name: str, index: Tensor, limit: int) -> None:
    """Refuse ids outside `[0, limit)`."""
    if index.numel():
        low, high = index.aminmax()
        if low < 0 or high >= limit:
            raise InvalidInputError(f"Expected '{name}' ids in [0, {limit}) (got ids from {low} to {high})")
