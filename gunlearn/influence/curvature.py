"""Products of the training loss's Hessian, or its Gauss-Newton part, with vectors: for any PyG model, exactly."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import grad
from torch_geometric.data import Data

from gunlearn.errors import InvalidInputError, UnsupportedMethodError
from gunlearn.influence.training_loss import TrainingLoss, flat, gradient

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
        """See the class."""
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


def _derivative(output: Tensor, inputs: list[Tensor], direction: Any) -> Tensor:
    """`direction^T d output / d inputs`, zero where there is no dependence (a loss linear in its logits)."""
    if not output.requires_grad:
        return torch.zeros_like(flat(inputs))
    return flat(grad(output, inputs, direction, retain_graph=True, materialize_grads=True)).detach()
