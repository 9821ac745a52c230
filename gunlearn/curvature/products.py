"""Products of the training loss's Hessian, or its Gauss-Newton part, with vectors: for any PyG model, exactly."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import grad
from torch_geometric.data import Data

from gunlearn.curvature.training_loss import TrainingLoss, flat, gradient
from gunlearn.errors import InvalidInputError, UnsupportedMethodError

KINDS = ("gauss_newton", "hessian")


class Curvature:
    r"""The matrix `C` of a training loss at the model's parameters, known by its products `C @ v`.

    - `"hessian"`: :math:`C = \nabla^2_\theta L`, by differentiating the gradient once more;
    - `"gauss_newton"`: :math:`C = J^\top H_z J`, where :math:`z` are the predictions' logits, :math:`J` their
      Jacobian and :math:`H_z` the Hessian of the loss in :math:`z`. It leaves out how the logits bend, and is positive
      semi-definite wherever the loss is convex in them (cross entropy is): the curvature that the proximal Bregman
      response has (Bae et al., arXiv 2209.05364; arXiv 2506.04694).

    The graph of the first derivative is built once; a product is one pass through it (three for Gauss-Newton), for as
    many vectors as are asked for. It holds `O(num_edges * dim)` memory per layer as long as the object lives, and the
    parameters must not be changed in place meanwhile.

    Args:
        loss: what was trained by.
        kind: one of `KINDS`.
        weight_decay: of the training; `weight_decay * v` is added.
        data: the graph, default the loss's.
        weight: of each term `[n]`, default the loss's.

    Raises:
        InvalidInputError: unknown kind, or a negative weight decay.
        UnsupportedMethodError: Gauss-Newton products of a task without logits.

    Shapes: `C @ v` takes and gives `[num_params]`, or `[k, num_params]` for `k` vectors.
    """

    def __init__(
        self,
        loss: TrainingLoss,
        kind: str = "gauss_newton",
        weight_decay: float = 0.0,
        data: Data | None = None,
        weight: Tensor | None = None,
    ) -> None:
        if kind not in KINDS:
            raise InvalidInputError(f"Expected 'curvature' among {KINDS} (got {kind!r})")
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
        # J^T u is linear in u: its derivative in u, applied to v, is J v (a forward-mode product by two backward ones).
        self._u = torch.zeros_like(z, requires_grad=True)
        self._pulled = flat(grad(z, self.params, self._u, create_graph=True, materialize_grads=True))

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.params)

    def __matmul__(self, v: Tensor) -> Tensor:
        """`C v`; see the class for shapes."""
        if v.dim() == 2:
            return torch.stack([self @ row for row in v])
        if v.shape != (self.size,):
            raise InvalidInputError(f"Expected a vector of {self.size} parameters (got shape {tuple(v.shape)})")
        product = self._hessian(v) if self.kind == "hessian" else self._gauss_newton(v)
        return product + self.weight_decay * v if self.weight_decay else product

    def _hessian(self, v: Tensor) -> Tensor:
        return _derivative(self._gradient, self.params, v)

    def _gauss_newton(self, v: Tensor) -> Tensor:
        pushed = _derivative(self._pulled, [self._u], v).view_as(self._u)
        bent = _derivative(self._slope, [self._logits], pushed).view_as(pushed)
        return _derivative(self._logits, self.params, bent)


class SplitGaussNewton:
    r"""Gauss-Newton products on the CSR kernels: one pass through the layers, one through the scores.

    For logits :math:`z = q(h)` at most quadratic in the model's outputs :math:`h` and without parameters of their own
    (classes of nodes, inner products of pairs), :math:`C v = J_h^\top J_q^\top H_z J_q J_h v`. The layers' constant
    matrices are differentiated to any order; :math:`J_q\,d = (q(h + td) - q(h - td)) / 2t` is exact for such `q` and
    takes first derivatives alone, where differentiating scores twice would gather `[num_pairs, dim]`.

    Args:
        loss: what was trained by, with `kernels=True`.
        weight_decay: of the training; `weight_decay * v` is added.
        data: the graph, default the loss's.
        weight: of each term `[n]`, default the loss's.

    Raises:
        UnsupportedMethodError: predictions without logits.
    """

    kind = "gauss_newton"

    def __init__(
        self, loss: TrainingLoss, weight_decay: float = 0.0, data: Data | None = None, weight: Tensor | None = None
    ) -> None:
        self.loss, self.params, self.weight_decay = loss, loss.params, weight_decay
        self._outputs = loss.outputs(data)
        self._u = torch.zeros_like(self._outputs, requires_grad=True)
        pulled = grad(self._outputs, self.params, self._u, create_graph=True, materialize_grads=True)
        self._pulled = flat(pulled)
        self._leaf = self._outputs.detach().requires_grad_()
        prediction = loss.predict(self._leaf)
        if prediction.logits is None:
            raise UnsupportedMethodError("Expected predictions with logits for Gauss-Newton products (got none)")
        self._logits = prediction.logits
        (self._slope,) = grad(loss.mean(prediction, weight), self._logits, create_graph=True)

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.params)

    def __matmul__(self, v: Tensor) -> Tensor:
        """`C v` for `v` `[num_params]`."""
        pushed = _derivative(self._pulled, [self._u], v).view_as(self._u)
        bent = _derivative(self._slope, [self._logits], self._scored(pushed)).view_as(self._logits)
        product = _derivative(self._outputs, self.params, _derivative(self._logits, [self._leaf], bent).view_as(pushed))
        return product + self.weight_decay * v if self.weight_decay else product

    @torch.no_grad()
    def _scored(self, direction: Tensor) -> Tensor:
        """`J_q direction`, in the shape of the logits."""
        size = float(direction.norm())
        if not 0 < size < float("inf"):
            return torch.zeros_like(self._logits) * size
        step = (float(self._leaf.norm()) or 1.0) / size
        ahead, behind = (self.loss.predict(self._leaf + sign * step * direction).logits for sign in (1, -1))
        return (ahead - behind) / (2 * step)


def _derivative(output: Tensor, inputs: list[Tensor], direction: Any) -> Tensor:
    """`direction^T d output / d inputs`, zero where there is no dependence (a loss linear in its logits)."""
    if not output.requires_grad:
        return torch.zeros_like(flat(inputs))
    return flat(grad(output, inputs, direction, retain_graph=True, materialize_grads=True)).detach()
