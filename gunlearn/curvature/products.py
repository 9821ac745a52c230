"""Exact products of vectors with the training loss's Hessian, or its Gauss-Newton part, for any PyG model."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import grad
from torch_geometric.data import Data

from gunlearn.core.checks import check_choice
from gunlearn.curvature.training_loss import TrainingLoss, flat, gradient
from gunlearn.errors import InvalidInputError, UnsupportedMethodError

CURVATURES = ("gauss_newton", "hessian")


class Products(ABC):
    """A matrix known by its products with vectors, plus a multiple of the identity."""

    params: Sequence[Tensor]
    weight_decay: float

    @property
    def size(self) -> int:
        return sum(p.numel() for p in self.params)

    def __matmul__(self, v: Tensor) -> Tensor:
        if v.dim() == 2:
            return torch.stack([self @ row for row in v])
        if v.shape != (self.size,):
            raise InvalidInputError(f"Expected a vector of {self.size} parameters (got shape {tuple(v.shape)})")
        product = self._product(v)
        return product + self.weight_decay * v if self.weight_decay else product

    @abstractmethod
    def _product(self, v: Tensor) -> Tensor:
        """Return the product with `v` `[size]`, without weight decay."""


class Curvature(Products):
    r"""The matrix `C` of a training loss at the model's parameters, known by its products `C @ v`.

    - `"hessian"`: :math:`C = \nabla^2_\theta L`, by differentiating the gradient once more;
    - `"gauss_newton"`: :math:`C = J^\top H_z J`, where :math:`z` are the predictions' logits, :math:`J` their Jacobian
      and :math:`H_z` the Hessian of the loss in :math:`z`. It ignores second derivatives of the logits, and is positive
      semi-definite if the loss is convex in them (as cross entropy is): the curvature of the proximal Bregman response
      (Bae et al., arXiv 2209.05364; arXiv 2506.04694).

    `C @ v` takes and returns `[num_params]`, or `[k, num_params]` for `k` vectors. The graph of the first derivative is
    built once; a product is one pass through it (Gauss-Newton: three). Never change the parameters in place meanwhile.

    Args:
        kind: one of `CURVATURES`.
        weight_decay: of the training; `weight_decay * v` is added.
        data: the graph, default the loss's.
        weight: of each term `[n]`, default the loss's.

    Raises:
        InvalidInputError: unknown kind, or a negative weight decay.
        UnsupportedMethodError: Gauss-Newton products of a task without logits.
    """

    def __init__(
        self,
        loss: TrainingLoss | Any,
        kind: str = "gauss_newton",
        weight_decay: float = 0.0,
        data: Data | None = None,
        weight: Tensor | None = None,
    ) -> None:
        check_choice("curvature", kind, CURVATURES)
        if not weight_decay >= 0:
            raise InvalidInputError(f"Expected 'weight_decay' >= 0 (got {weight_decay})")
        self.kind, self.weight_decay, self.params = kind, weight_decay, loss.params
        prediction = loss.predict(loss.outputs(data))
        value = loss.mean(prediction, weight)
        if kind == "hessian":
            self._gradient = gradient(value, self.params, create_graph=True)
            return
        z = prediction.logits
        if z is None or not z.requires_grad:
            raise UnsupportedMethodError(
                "Expected predictions with logits for Gauss-Newton products (got none); use curvature='hessian'"
            )
        self._logits = z
        (self._slope,) = grad(value, z, create_graph=True)
        # J^T u is linear in u: its derivative in u, applied to v, is J v.
        self._u = torch.zeros_like(z, requires_grad=True)
        self._pulled = flat(grad(z, self.params, self._u, create_graph=True, materialize_grads=True))

    def _product(self, v: Tensor) -> Tensor:
        if self.kind == "hessian":
            return _derivative(self._gradient, self.params, v)
        pushed = _derivative(self._pulled, [self._u], v).view_as(self._u)
        bent = _derivative(self._slope, [self._logits], pushed).view_as(pushed)
        return _derivative(self._logits, self.params, bent)


class SplitGaussNewton(Products):
    r"""Gauss-Newton products on the CSR kernels: one pass through the layers, one through the scores.

    For logits :math:`z = q(h)` at most quadratic in the model's outputs :math:`h` and without parameters of their own
    (classes of nodes, inner products of pairs), :math:`C v = J_h^\top J_q^\top H_z J_q J_h v`. For such `q`
    :math:`J_q\,d = (q(h + td) - q(h - td)) / 2t` is exact, and needs no second derivative of the scores, which would
    gather `[num_pairs, dim]`. Args and errors: see `Curvature`; `loss` has `kernels=True`.
    """

    kind = "gauss_newton"

    def __init__(self, loss: TrainingLoss, weight_decay: float = 0.0) -> None:
        self.loss, self.params, self.weight_decay = loss, loss.params, weight_decay
        self._outputs = loss.outputs()
        self._u = torch.zeros_like(self._outputs, requires_grad=True)
        self._pulled = flat(grad(self._outputs, self.params, self._u, create_graph=True, materialize_grads=True))
        self._leaf = self._outputs.detach().requires_grad_()
        prediction = loss.predict(self._leaf)
        if prediction.logits is None:
            raise UnsupportedMethodError("Expected predictions with logits for Gauss-Newton products (got none)")
        self._logits = prediction.logits
        (self._slope,) = grad(loss.mean(prediction), self._logits, create_graph=True)

    def _product(self, v: Tensor) -> Tensor:
        pushed = _derivative(self._pulled, [self._u], v).view_as(self._u)
        bent = _derivative(self._slope, [self._logits], self._scored(pushed)).view_as(self._logits)
        return _derivative(self._outputs, self.params, _derivative(self._logits, [self._leaf], bent).view_as(pushed))

    @torch.no_grad()
    def _scored(self, direction: Tensor) -> Tensor:
        """Return `J_q direction` in the shape of the logits."""
        size = float(direction.norm())
        if not 0 < size < float("inf"):
            return torch.zeros_like(self._logits) * size
        step = (float(self._leaf.norm()) or 1.0) / size
        ahead, behind = (self.loss.predict(self._leaf + s * step * direction).require("logits") for s in (1, -1))
        return (ahead - behind) / (2 * step)


def _derivative(output: Tensor, inputs: Sequence[Tensor], direction: Any) -> Tensor:
    """Return `direction^T d output / d inputs`, zero where `output` is constant (a loss linear in its logits)."""
    if not output.requires_grad:
        return torch.zeros_like(flat(inputs))
    return flat(grad(output, inputs, direction, retain_graph=True, materialize_grads=True)).detach()
