"""Inner products of node pairs on CSR kernels, with hand-written gradients."""

from functools import cached_property

import torch
from torch import Tensor

from gunlearn.core.sorting import lexsort, sort_places
from gunlearn.errors import InvalidInputError
from gunlearn.nn.kernels.memo import memo
from gunlearn.nn.kernels.sparse import check_indices, csr_places, csr_tensor, multiply
from gunlearn.nn.kernels.switch import KERNEL_DTYPES, kernels_enabled, warn_second_order


class EdgePattern:
    """A fixed set of node pairs whose inner products and gradients are sparse products.

    Args:
        edge_index: node pairs `[2, num_pairs]`; repeated pairs and self pairs are allowed.
        num_nodes: number of rows of the embeddings.
        keep: remember scores of embeddings without gradient (a reference model's) while these live.

    Raises:
        InvalidInputError: a wrong shape, or ids outside `[0, num_nodes)` (the kernels would access other memory).
    """

    def __init__(self, edge_index: Tensor, num_nodes: int, keep: bool = False) -> None:
        if edge_index.dim() != 2 or edge_index.size(0) != 2:
            raise InvalidInputError(f"Expected 'edge_index' of shape [2, num_pairs] (got {tuple(edge_index.shape)})")
        check_indices("node", edge_index, num_nodes)
        self.edge_index, self.num_nodes, self.keep = edge_index, num_nodes, keep
        self.size = num_nodes, num_nodes  # of the matrix that has the pairs as places

    @cached_property
    def upper(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Row pointer, columns and the pair in each CSR slot (`None`: the pairs are in this order)."""
        row, col = self.edge_index
        # On CPU columns need no order within a row: pairs sorted by row (a sampler's, a coalesced graph's) stay.
        if row.device.type == "cpu" and bool((row[1:] >= row[:-1]).all()):
            return (*csr_places(row, col, self.size), None)
        return self._sorted(row, col)

    @cached_property
    def lower(self) -> tuple[Tensor, Tensor, Tensor]:
        """The same for the reversed pairs, which the gradient needs."""
        return self._sorted(*self.edge_index.flip(0))

    def _sorted(self, row: Tensor, col: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if row.device.type == "cpu":
            ordered, order = sort_places(row)
        else:
            order = lexsort(row, col)
            ordered = row[order]
        return (*csr_places(ordered, col.index_select(0, order), self.size), order)

    def inner_product(self, z: Tensor) -> Tensor:
        """Return `<z_u, z_v>` for every pair, `[num_pairs]`, given `z` `[num_nodes, dim]`; differentiable to any order.

        The second order falls back to gather-scatter, with a `PlainPathWarning`.
        """
        if z.size(0) != self.num_nodes:
            raise InvalidInputError(f"Expected embeddings of {self.num_nodes} nodes (got {z.size(0)} rows)")
        if self.keep and not z.requires_grad:
            return memo(z, self, lambda: self._scores(z))
        return self._scores(z)

    def _scores(self, z: Tensor) -> Tensor:
        num_pairs = self.edge_index.size(1)
        # Few pairs are as fast without the kernel, which refuses more than all N * N places (repeated pairs).
        if not kernels_enabled() or z.dtype not in KERNEL_DTYPES or not 1024 <= num_pairs <= self.num_nodes**2:
            return gather_inner_product(z, self.edge_index)
        return _InnerProduct.apply(z, self)


def gather_inner_product(z: Tensor, edge_index: Tensor) -> Tensor:
    """Return `EdgePattern.inner_product` by plain gathering: any dtype, any order of differentiation."""
    return (z.index_select(0, edge_index[0]) * z.index_select(0, edge_index[1])).sum(dim=-1)


class _InnerProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z: Tensor, pattern: EdgePattern) -> Tensor:
        pointer, col, order = pattern.upper
        empty = csr_tensor(pointer, col, z.new_zeros(col.numel()), pattern.size)
        dense = z.contiguous()
        score = torch.sparse.sampled_addmm(empty, dense, dense.t(), beta=0.0).values()
        ctx.save_for_backward(z)  # not a copy, which would be a constant in the second derivative
        ctx.pattern = pattern
        return score if order is None else torch.empty_like(score).index_copy_(0, order, score)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, None]:
        (z,), pattern = ctx.saved_tensors, ctx.pattern
        if torch.is_grad_enabled():  # create_graph=True
            warn_second_order("edge scores")
            u, v = pattern.edge_index
            one_way = torch.zeros_like(z).index_add(0, u, grad.unsqueeze(-1) * z[v])
            return one_way.index_add(0, v, grad.unsqueeze(-1) * z[u]), None
        dense = z.contiguous()
        out: Tensor | None = None
        for pointer, col, order in (pattern.upper, pattern.lower):
            value = grad.contiguous() if order is None else grad[order]
            out = multiply(csr_tensor(pointer, col, value, pattern.size), dense, add_to=out)
        return out, None
