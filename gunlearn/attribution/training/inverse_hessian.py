"""Influence functions: training influence through an inverse curvature."""

import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.autograd import grad
from torch_geometric.data import Data

from gunlearn.attribution.base import Estimator, InfluenceProblem
from gunlearn.attribution.training.item_losses import own_terms
from gunlearn.curvature.products import Curvature
from gunlearn.curvature.solvers import Solution, Spectrum, conjugate_gradient, lanczos
from gunlearn.curvature.training_loss import TrainingLoss, flat, gradient
from gunlearn.errors import DivergenceError, InvalidInputError, UnsupportedMethodError

UNTRAINED = 1.0  # relative gradient norm; above it the loss can fall by its own size within reach of the weights


@dataclass(frozen=True)
class InverseHessian(Estimator):
    r"""Influence function: leave out an item's own loss term, to first order (Koh & Liang, arXiv 1703.04730).

    With :math:`L(\theta) = \frac1n \sum_i \ell_i` at a stationary point, removing term :math:`i` shifts the parameters
    by :math:`\Delta\theta = \frac1n (C + \lambda I)^{-1} \nabla \ell_i`, and the target by

    .. math:: f(\theta + \Delta\theta) - f(\theta) \approx \nabla f^\top \Delta\theta = s^\top \tfrac1n \nabla\ell_i,
              \qquad (C + \lambda I)\, s = \nabla f.

    Conjugate gradients solve one system for `s`; one more pass serves all items. The item's effect on *other* terms
    through message passing is left out (see `EdgeEdit`).

    Own terms: an edge's positive term or those of all a node's edges (link prediction), a node's label term (node
    classification). Random negatives are drawn once, under the seed, so a model that saw new ones at each step is not
    quite stationary. `notes` hold the damping, the spectrum's bounds, the residual, the training loss and the relative
    norm of its gradient, weight decay included: `||grad L|| ||theta|| / L(zero outputs)`.

    Args:
        curvature: `C`: `"gauss_newton"`, positive semi-definite, or `"hessian"`.
        damping: `lambda`; `None` takes a thousandth of the largest eigenvalue (a Lanczos bound), plus for a Hessian
            what makes it positive definite.
        tolerance: relative residual of the solution.
        max_iterations: limit of conjugate gradients.
        weight_decay: L2 penalty of the training, `weight_decay / 2 ||theta||^2`; part of the curvature.

    Raises:
        DivergenceError: the damped curvature is not positive definite, or the solver did not converge.
        InvalidInputError: a bad option.
        UnsupportedMethodError: items without a loss term of their own.
    """

    curvature: str = "gauss_newton"
    damping: float | None = None
    tolerance: float = 1e-4
    max_iterations: int = 1000
    weight_decay: float = 0.0

    name = "if"
    summary = "inverse curvature times the gradient of the item's own loss term; message passing left out"
    paper = "arXiv 1703.04730"
    question = "training"
    of: ClassVar[tuple[str, ...]] = ("edges", "nodes")
    targets = ("value",)
    cost = "some hundred passes, then one for all items"

    def __post_init__(self) -> None:
        if self.damping is not None and not self.damping >= 0:
            raise InvalidInputError(f"Expected 'damping' >= 0 or None (got {self.damping})")
        if not 0 < self.tolerance < 1 or self.max_iterations < 1:
            raise InvalidInputError(
                f"Expected 0 < tolerance < 1 and max_iterations >= 1 (got {self.tolerance}, {self.max_iterations})"
            )

    def scores(self, problem: InfluenceProblem) -> Tensor:
        loss = TrainingLoss.of(problem)
        item, term = own_terms(loss.items, problem.items)
        if not term.numel():
            raise UnsupportedMethodError(
                f"Expected {problem.items.of} with a loss term of their own under task '{problem.task.name}' (got "
                "none); use estimator 'edge_edit', which follows their messages"
            )
        weight = loss.weight.clone().requires_grad_()
        (per_term,) = grad(along(loss, self.solve(problem, loss), loss.data, weight), weight)
        found = torch.zeros(problem.items.num_items, dtype=per_term.dtype, device=per_term.device)
        return found.index_add(0, item, (per_term * loss.weight)[term])

    def solve(self, problem: InfluenceProblem, loss: TrainingLoss) -> Tensor:
        """Return `(C + damping I)^-1 grad f` at the model's parameters, `[num_params]`."""
        self.look_at_training(problem, loss)
        matrix = Curvature(loss, self.curvature, self.weight_decay)
        ends = lanczos(matrix, loss.weight, seed=problem.seed)
        slope = gradient(problem.value(loss.outputs()), loss.params)
        solution, damping = self.invert(matrix, slope, ends, loss)
        problem.notes |= {
            "curvature": self.curvature,
            "damping": damping,
            "largest_eigenvalue": ends.largest,
            "smallest_eigenvalue": ends.smallest,
            "residual": solution.residual,
            "iterations": solution.iterations,
        }
        return solution.x

    def invert(self, matrix: Curvature, b: Tensor, ends: Spectrum, loss: TrainingLoss) -> tuple[Solution, float]:
        """Return the solution and its damping; a loss without any curvature gets damping 1."""
        damping = self.damping if self.damping is not None else ends.damping() or 1.0
        if ends.smallest + damping < 0 and -ends.smallest > 1e-6 * abs(ends.largest):
            raise DivergenceError(
                f"Expected a damping above {-ends.smallest:.3g}, so that the {self.curvature} is positive definite "
                f"(got {damping:.3g}); leave it to be chosen, or use curvature='gauss_newton'"
            )
        return conjugate_gradient(matrix, b, damping, self.tolerance, self.max_iterations), damping

    def look_at_training(self, problem: InfluenceProblem, loss: TrainingLoss) -> None:
        """Note how far the model is from a minimum of its training loss, and warn if it is far."""
        value = loss()
        theta = flat(loss.params).detach()
        slope, value = gradient(value, loss.params) + self.weight_decay * theta, value.detach()
        uninformed = loss.uninformed()
        relative = float(slope.norm() * theta.norm()) / uninformed if uninformed > 0 else float("nan")
        problem.notes |= {"training_loss": float(value), "gradient_norm": relative}
        if float(value) >= 0.95 * uninformed or relative > UNTRAINED:
            warnings.warn(
                f"the model does not look trained to a minimum of its training loss (loss {float(value):.3g}, of zero "
                f"outputs {uninformed:.3g}, relative gradient norm {relative:.2g}), about which influence functions "
                "expand: it was not trained on this data, was kept early (best on validation), or the training's "
                "weight_decay is not named",
                stacklevel=3,
            )


def along(loss: TrainingLoss, s: Tensor, data: Data, weight: Tensor) -> Tensor:
    """Return `s^T grad_theta L`, differentiable in the weights of terms and edges."""
    return gradient(loss(data, weight), loss.params, create_graph=True) @ s
