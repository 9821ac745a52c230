"""CSR kernels: sparse-dense products, sampled dense-dense products and edge scores, with hand-written gradients.

Gather-scatter message passing moves `[num_edges, dim]` tensors through memory three times a layer; a CSR product moves
none. The gradient of `A @ x` is `A^T @ grad`, so both matrices are built once and kept; the gradient with respect to
the stored values is the product `grad @ x^T` sampled at their places.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.nn.kernels.memo import memo, remembered

with warnings.catch_warnings():  # torch says once that CSR is in beta; nobody who unlearns an edge needs to know
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), size=(1, 1))

KERNEL_DTYPES = (torch.float32, torch.float64)
_ENABLED: ContextVar[bool] = ContextVar("gunlearn_kernels", default=True)


@contextmanager
def plain_path() -> Iterator[None]:
    """Inside the block no kernel runs: layers gather and scatter, dense features are multiplied dense.

    For comparisons, and for what needs torch's own operators throughout.
    """
    token = _ENABLED.set(False)
    try:
        yield
    finally:
        _ENABLED.reset(token)


def kernels_enabled() -> bool:
    """Not inside `plain_path`, nor inside a `torch.func` transform, which does not follow hand-written gradients."""
    return _ENABLED.get() and torch._C._functorch.peek_interpreter_stack() is None


class PlainPathWarning(UserWarning):
    """A kernel fell back to gather-scatter on plain `edge_index`: right, but slower."""


def _warn_second_order(kernel: str) -> None:
    warnings.warn(
        f"second-order gradients of {kernel} are computed by gather-scatter on plain edge_index: exact, but slower and "
        "with [num_edges, dim] temporaries",
        PlainPathWarning,
        stacklevel=3,
    )


@dataclass(frozen=True, eq=False)
class SparseMatrix:
    """A sparse matrix and its transpose, both CSR.

    Args:
        matrix: `[num_rows, num_cols]`, `torch.sparse_csr`, constant.
        transpose: `[num_cols, num_rows]`, `torch.sparse_csr`; the same object where the matrix is symmetric.
        values: values in the order of `matrix` that a gradient may be asked for, `[num_entries]`; `None` for the
            constants that `matrix` holds.
    """

    matrix: Tensor
    transpose: Tensor
    values: Tensor | None = None

    def __post_init__(self) -> None:
        """Keep the parts of the matrix at hand: inside `torch.func` transforms it does not give them away."""
        parts = self.matrix.crow_indices(), self.matrix.col_indices(), self.matrix.values()
        object.__setattr__(self, "parts", parts)

    @property
    def shape(self) -> torch.Size:
        """`[num_rows, num_cols]`."""
        return self.matrix.shape

    @cached_property
    def rows(self) -> Tensor:
        """Row of each stored entry, `[num_entries]`."""
        count = self.parts[0].diff()
        return torch.repeat_interleave(torch.arange(count.numel(), device=count.device), count)

    @cached_property
    def transposed_order(self) -> Tensor:
        """For each entry of the transpose, its place in `matrix`; `[num_entries]`."""
        return lexsort(self.matrix.col_indices(), self.rows)

    def with_values(self, values: Tensor) -> SparseMatrix:
        """The same places with other values `[num_entries]`, which may need a gradient.

        Raises:
            InvalidInputError: not one value per stored entry.
        """
        if values.shape != self.matrix.values().shape:
            raise InvalidInputError(
                f"Expected one value for each of {self.matrix.values().numel()} entries (got {tuple(values.shape)})"
            )
        out = SparseMatrix(self.matrix, self.transpose, values)
        for name in ("rows", "transposed_order"):  # shared, not computed anew for each set of values
            if values.requires_grad:
                out.__dict__[name] = getattr(self, name)
        return out

    def __matmul__(self, x: Tensor) -> Tensor:
        """Multiply with a dense matrix `[num_cols, dim]` of the same dtype.

        Differentiable with respect to `x` to any order. Where values are given and need a gradient, the first order
        runs on kernels; the second falls back to gather-scatter, with a `PlainPathWarning`.

        Raises:
            InvalidTypeError: another dtype (half precision has no kernel).
            InvalidInputError: another number of rows.
        """
        dtype = self.matrix.dtype if self.values is None else self.values.dtype
        if x.dtype != dtype:
            raise InvalidTypeError(f"Expected a matrix of {dtype} to multiply with (got {x.dtype})")
        if x.dim() != 2 or x.size(0) != self.shape[1]:
            raise InvalidInputError(f"Expected a matrix of shape [{self.shape[1]}, dim] (got {tuple(x.shape)})")
        if torch._C._functorch.peek_interpreter_stack() is not None:
            _, col, constant = self.parts
            messages = (constant if self.values is None else self.values).unsqueeze(-1) * x[col]
            return x.new_zeros(self.shape[0], x.size(1)).index_add(0, self.rows, messages)
        if self.values is None:
            return _SpMM.apply(self.matrix, self.transpose, x)
        return _LearnedSpMM.apply(self.values, x, self)


def _with(pattern: Tensor, values: Tensor) -> Tensor:
    """CSR tensor with the places of `pattern`."""
    return _assemble(pattern.crow_indices(), pattern.col_indices(), values, tuple(pattern.shape))


def _product(matrix: Tensor, x: Tensor, add_to: Tensor | None = None) -> Tensor:
    """`matrix @ x`, into a new tensor or added to one; on CPU three times as fast as the operator, which copies."""
    if add_to is not None:
        return torch.addmm(add_to, matrix, x, out=add_to)
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


class _LearnedSpMM(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor, x: Tensor, pattern: SparseMatrix) -> Tensor:
        ctx.save_for_backward(values, x)
        ctx.pattern = pattern
        return _product(_with(pattern.matrix, values), x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (values, x), pattern = ctx.saved_tensors, ctx.pattern
        by_values = by_x = None
        if torch.is_grad_enabled():  # create_graph=True
            _warn_second_order("a sparse product with learned values")
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
            by_x = _product(_with(pattern.transpose, values[pattern.transposed_order]), grad)
        return by_values, by_x, None


def sddmm(pattern: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Sampled dense-dense product: `<a_i, b_j>` at each stored place `(i, j)`, without its gradient.

    Args:
        pattern: CSR `[num_rows, num_cols]`; its values are not read.
        a: `[num_rows, dim]`.
        b: `[num_cols, dim]`.

    Returns:
        `[num_entries]`, in the order of the CSR entries.
    """
    num_entries = pattern.col_indices().numel()
    # More entries than places (repeats) is what the kernel refuses.
    if num_entries > pattern.size(0) * pattern.size(1):
        count = pattern.crow_indices().diff()
        row = torch.repeat_interleave(torch.arange(count.numel(), device=a.device), count)
        return (a.index_select(0, row) * b.index_select(0, pattern.col_indices())).sum(dim=-1)
    empty = _with(pattern, a.new_zeros(num_entries))
    return torch.sparse.sampled_addmm(empty, a.contiguous(), b.contiguous().t(), beta=0.0).values()


def argsort(key: Tensor, stable: bool = False) -> Tensor:
    """Order of integer keys >= 0.

    On CPU by numpy's vectorised sort: of keys and places packed into one integer where they fit (a stable sort, several
    times as fast as any argsort), else by its argsort.
    """
    if key.device.type != "cpu":
        return key.argsort(stable=stable)
    array, bits = key.numpy().astype(np.int64, copy=False), max(key.numel(), 1).bit_length()
    if key.numel() == 0 or int(array.max()) < 2 ** (63 - bits):
        packed = (array << bits) | np.arange(array.size)
        packed.sort()
        packed &= (1 << bits) - 1
        return torch.from_numpy(packed)
    return torch.from_numpy(np.argsort(array, kind="stable" if stable else "quicksort"))


def lexsort(row: Tensor, col: Tensor) -> Tensor:
    """Order of pairs by row, then by column; equal pairs keep their order."""
    order = argsort(col, stable=True)  # two passes: one key of both would not leave room for the places
    return order[argsort(row[order], stable=True)]


def sort(key: Tensor) -> Tensor:
    """Sorted integer keys; on CPU numpy's vectorised sort, several times as fast as torch's."""
    return key.sort()[0] if key.device.type != "cpu" else torch.from_numpy(np.sort(key.numpy()))


def csr(row: Tensor, col: Tensor, value: Tensor, size: tuple[int, int]) -> Tensor:
    """A CSR tensor from entries in any order; repeated entries stay repeated (products add them up)."""
    return _csr(row, col, value, size)[0]


def _csr(row: Tensor, col: Tensor, value: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    order = lexsort(row, col)
    return _assemble(*_compressed(row[order], col[order], size), value[order], size), order


def _compressed(row: Tensor, col: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Row pointer and columns of sorted entries; 32 bits where they do, which is what the kernels work with."""
    pointer = torch._convert_indices_from_coo_to_csr(row, size[0])
    small = max(row.numel(), *size) < 2**31
    return (pointer.int(), col.int()) if small else (pointer, col)


def _assemble(pointer: Tensor, col: Tensor, value: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.sparse_csr_tensor(pointer, col, value, size=size, check_invariants=False)


def sparse_matrix(row: Tensor, col: Tensor, value: Tensor, size: tuple[int, int]) -> SparseMatrix:
    """Build a `SparseMatrix` from entries in any order.

    Args:
        row: row of each entry, `[num_entries]`.
        col: column of each entry, `[num_entries]`.
        value: `[num_entries]`, floating point; where it needs a gradient, so does the matrix.
        size: `(num_rows, num_cols)`.

    Raises:
        InvalidInputError: ids outside the matrix (the kernels would read and write elsewhere).
    """
    for name, index, limit in (("row", row, size[0]), ("col", col, size[1])):
        _check_ids(name, index, limit)
    constant = value.detach()
    matrix, order = _csr(row, col, constant, size)
    transpose = csr(col, row, constant, size[::-1])
    same = (
        size[0] == size[1]
        and torch.equal(matrix.crow_indices(), transpose.crow_indices())
        and torch.equal(matrix.col_indices(), transpose.col_indices())
        and torch.equal(matrix.values(), transpose.values())
    )
    built = SparseMatrix(matrix, matrix if same else transpose)
    return built.with_values(value[order]) if value.requires_grad else built


def _check_ids(name: str, index: Tensor, limit: int) -> None:
    if index.numel():
        low, high = index.aminmax()
        if low < 0 or high >= limit:
            raise InvalidInputError(f"Expected '{name}' ids in [0, {limit}) (got ids from {low} to {high})")


MAX_DENSITY = 0.05  # above it a dense product is faster, and a sparse matrix hardly smaller


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
            return sparse_matrix(row, x.col_indices().long(), x.values(), tuple(x.shape))
        if x.layout != torch.strided or x.dim() != 2 or x.size(1) < 64:
            return None
        if int(x.count_nonzero()) > MAX_DENSITY * x.numel():
            return None
        row, col = x.nonzero(as_tuple=True)
        return sparse_matrix(row, col, x[row, col], tuple(x.shape))

    if x.requires_grad or x.dtype not in KERNEL_DTYPES or (x.layout == torch.strided and not _ENABLED.get()):
        return None
    return memo(x, "sparse_features", build)


def known_sparse(x: object) -> SparseMatrix | None:
    """`sparse_features` of a CSR tensor, and of a dense one for which they were made before: never counts zeros."""
    if not isinstance(x, Tensor) or x.requires_grad:
        return None
    if x.layout == torch.sparse_csr:
        return sparse_features(x)
    return remembered(x, "sparse_features") if _ENABLED.get() else None


def dense_parts(x: Tensor) -> tuple[Tensor, ...]:
    """The dense tensors that a tensor is made of: itself, or indices and values."""
    if x.layout == torch.sparse_csr:
        return x.crow_indices(), x.col_indices(), x.values()
    if x.layout == torch.sparse_coo:
        return x._indices(), x._values()
    return (x,)


class EdgePattern:
    """A fixed set of node pairs, laid out so that their inner products and gradients are sparse products.

    Args:
        edge_index: node pairs `[2, num_pairs]`; repeated pairs and self pairs are allowed.
        num_nodes: number of rows of the embeddings.
        keep: remember the scores of embeddings that need no gradient (a reference model's) as long as these live.

    Raises:
        InvalidInputError: a wrong shape, or ids outside `[0, num_nodes)` (the kernels would read and write elsewhere).
    """

    def __init__(self, edge_index: Tensor, num_nodes: int, keep: bool = False) -> None:
        if edge_index.dim() != 2 or edge_index.size(0) != 2:
            raise InvalidInputError(f"Expected 'edge_index' of shape [2, num_pairs] (got {tuple(edge_index.shape)})")
        _check_ids("node", edge_index, num_nodes)
        self.edge_index, self.num_nodes, self.keep = edge_index, num_nodes, keep

    @cached_property
    def upper(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Row pointer, columns and, for each CSR slot, the pair it holds (`None`: the pairs come in this order)."""
        row, col = self.edge_index
        # Columns need no order within a row on CPU; pairs sorted by row (a sampler's, a coalesced graph's) stay.
        if row.device.type == "cpu" and bool((row[1:] >= row[:-1]).all()):
            return (*_compressed(row, col, self.size), None)
        return self._sorted(row, col)

    @cached_property
    def lower(self) -> tuple[Tensor, Tensor, Tensor]:
        """The same for the pairs the other way round, which the gradient needs."""
        return self._sorted(*self.edge_index.flip(0))

    def _sorted(self, row: Tensor, col: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        order = argsort(row) if row.device.type == "cpu" else lexsort(row, col)
        return (*_compressed(row[order], col[order], self.size), order)

    @property
    def size(self) -> tuple[int, int]:
        """Of the matrix whose places the pairs are."""
        return self.num_nodes, self.num_nodes

    def inner_product(self, z: Tensor) -> Tensor:
        """`<z_u, z_v>` for every pair: `[num_pairs]`; differentiable to any order.

        The second order falls back to gather-scatter, with a `PlainPathWarning`.

        Args:
            z: node embeddings `[num_nodes, dim]`.
        """
        if z.size(0) != self.num_nodes:
            raise InvalidInputError(f"Expected embeddings of {self.num_nodes} nodes (got {z.size(0)} rows)")
        if self.keep and not z.requires_grad:
            return memo(z, self, lambda: self._scores(z))
        return self._scores(z)

    def _scores(self, z: Tensor) -> Tensor:
        num_pairs = self.edge_index.size(1)
        # Few pairs are as fast without the kernel; more than all N * N places (repeats) it refuses.
        if not kernels_enabled() or z.dtype not in KERNEL_DTYPES or not 1024 <= num_pairs <= self.num_nodes**2:
            return gather_inner_product(z, self.edge_index)
        return _InnerProduct.apply(z, self)


def gather_inner_product(z: Tensor, edge_index: Tensor) -> Tensor:
    """The plain formulation of `EdgePattern.inner_product`: any dtype, any order of differentiation."""
    return (z.index_select(0, edge_index[0]) * z.index_select(0, edge_index[1])).sum(dim=-1)


class _InnerProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z: Tensor, pattern: EdgePattern) -> Tensor:
        pointer, col, order = pattern.upper
        empty = _assemble(pointer, col, z.new_zeros(col.numel()), pattern.size)
        dense = z.contiguous()
        score = torch.sparse.sampled_addmm(empty, dense, dense.t(), beta=0.0).values()
        ctx.save_for_backward(z)  # the input itself: a copy made here would be a constant in the second derivative
        ctx.pattern = pattern
        return score if order is None else torch.empty_like(score).index_copy_(0, order, score)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (z,), pattern = ctx.saved_tensors, ctx.pattern
        if torch.is_grad_enabled():  # create_graph=True: the plain form, whose gradient torch knows
            _warn_second_order("edge scores")
            u, v = pattern.edge_index
            out = torch.zeros_like(z).index_add(0, u, grad.unsqueeze(-1) * z[v])
            return out.index_add(0, v, grad.unsqueeze(-1) * z[u]), None
        dense, out = z.contiguous(), None
        for pointer, col, order in (pattern.upper, pattern.lower):
            value = grad.contiguous() if order is None else grad[order]
            out = _product(_assemble(pointer, col, value, pattern.size), dense, add_to=out)
        return out, None
