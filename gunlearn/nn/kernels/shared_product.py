"""The product of features with a layer's weights, shared by a pass without gradients and the training pass after it.

A stop criterion reads the model on the same features and with the same weights as the step that follows; on wide
features this product is most of a pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from gunlearn.nn.kernels.bag_of_words import known_sparse
from gunlearn.nn.kernels.sparse import SparseMatrix
from gunlearn.nn.kernels.switch import in_transform


class _Shared:
    """The last product with `x`, and the weights it was computed with."""

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self.weight: Tensor | None = None
        self.product: Tensor | None = None

    def reads(self, x: Tensor | SparseMatrix) -> bool:
        return x is self.x or (isinstance(x, SparseMatrix) and x is known_sparse(self.x))

    def put(self, weight: Tensor, product: Tensor) -> None:
        self.weight, self.product = weight.detach().clone(), product

    def take(self, weight: Tensor) -> Tensor | None:
        """Return the product, once; `None` if it is that of other weights."""
        kept, product = self.weight, self.product
        self.weight = self.product = None
        # Values are compared: a version counter misses what is written through `.data`.
        same = kept is not None and kept.dtype == weight.dtype and torch.equal(kept, weight)
        return product if same else None


_SHARED: ContextVar[_Shared | None] = ContextVar("gunlearn_shared_product", default=None)


@contextmanager
def shared_product(x: object) -> Iterator[None]:
    """Inside the block `linear` of constant features `x` is computed once for a pass without gradients and the next."""
    token = _SHARED.set(_Shared(x) if isinstance(x, Tensor) and not x.requires_grad else None)
    try:
        yield
    finally:
        _SHARED.reset(token)


def linear(x: Tensor | SparseMatrix, layer: nn.Linear) -> Tensor:
    """Return `x @ weight.T` of a map without bias; nobody may change the result in place."""
    shared = None if torch.compiler.is_compiling() else _SHARED.get()
    if shared is None or not shared.reads(x) or not _is_bare(layer) or torch.is_autocast_enabled() or in_transform():
        return _product(x, layer)
    if not torch.is_grad_enabled():
        product = _product(x, layer)
        shared.put(layer.weight, product)
        return product
    known = shared.take(layer.weight)
    return _product(x, layer) if known is None else _Computed.apply(layer.weight, x, [known])


def _product(x: Tensor | SparseMatrix, layer: nn.Linear) -> Tensor:
    return x @ layer.weight.t() if isinstance(x, SparseMatrix) else layer(x)


def _is_bare(layer: nn.Linear) -> bool:
    """Return whether nothing is attached to a map that reads its input or changes its output or weights."""
    return type(layer) is nn.Linear and not (
        layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    )


class _Computed(torch.autograd.Function):
    """A product that is known already, in a list, and its gradient with respect to the weights."""

    @staticmethod
    def forward(ctx, weight: Tensor, x: Tensor | SparseMatrix, product: list[Tensor]) -> Tensor:
        ctx.x = x
        return product[0]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        x = ctx.x
        if isinstance(x, SparseMatrix):
            return (SparseMatrix(x.transpose, x.matrix) @ grad).t(), None, None
        return grad.t() @ x, None, None
