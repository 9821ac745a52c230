"""Training influence by an inverse curvature: influence functions, GIF, and the influence of edge edits."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import grad

from gunlearn.attribution.base import Estimator, InfluenceProblem
from gunlearn.attribution.removal.first_order import weighted_layers
from gunlearn.attribution.training.item_losses import own_terms
from gunlearn.curvature.products import Curvature
from gunlearn.curvature.solvers import Solution, Spectrum, conjugate_gradient, lanczos, lissa
from gunlearn.curvature.training_loss import TrainingLoss, gradient
from gunlearn.errors import DivergenceError, InvalidInputError, UnsupportedMethodError

UNTRAINED = 1.0  # relative gradient norm, above which the loss falls by its own size within reach of the weights


@dataclass(frozen=True)
class InverseHessian(Estimator):
    r"""Influence function: leave out an item's own loss term, to first order (Koh & Liang, arXiv 1703.04730).

    With :math:`L(\theta) = \frac1n \sum_i \ell_i` at a stationary point, taking term :math:`i` away shifts the
    parameters by :math:`\Delta\theta = \frac1n (C + \lambda I)^{-1} \nabla \ell_i`, and the target by

    .. math:: f(\theta + \Delta\theta) - f(\theta) \approx \nabla f^\top \Delta\theta = s^\top \tfrac1n \nabla\ell_i,
              \qquad (C + \lambda I)\, s = \nabla f.

    One system is solved for `s`, by conjugate gradients; all items then take one more pass. The graph stays as it is:
    what the item does to *other* terms through message passing is left out (see `EdgeEdit`).

    Under link prediction an edge's own term is the one that labels it an edge, a node's are those of its edges; under
    node classification a node's is its label's. `notes` hold the damping, the bounds on the spectrum, the residual, the
    training loss and the norm of its gradient, `||grad L|| ||theta|| / L(zero outputs)`. Random negatives are drawn
    once, under the seed, so a model that saw fresh ones at each step is not quite stationary.

    Args:
        curvature: `C`: `"gauss_newton"`, positive semi-definite, or `"hessian"`.
        damping: `lambda`; `None` chooses it from a Lanczos bound on the spectrum: a thousandth of the largest
            eigenvalue, plus for a Hessian what makes it positive definite.
        tolerance: relative residual of the solution.
        max_iterations: of conjugate gradients.
        weight_decay: L2 penalty of the training, `weight_decay / 2 ||theta||^2`; part of the curvature.

    Raises:
        DivergenceError: the damped curvature is not positive definite, or the solver did not converge.
        InvalidInputError: a bad option.
        UnsupportedMethodError: an item without a loss term of its own.
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
    of = ("edges", "nodes")
    targets = ("value",)
    cost = "some hundred passes, then one for all items"

    def __post_init__(self) -> None:
        """Refuse bad options at construction."""
        if self.damping is not None and not self.damping >= 0:
            raise InvalidInputError(f"Expected 'damping' >= 0 or None (got {self.damping})")
        if not 0 < self.tolerance < 1 or self.max_iterations < 1:
            raise InvalidInputError(
                f"Expected 0 < tolerance < 1 and max_iterations >= 1 (got {self.tolerance}, {self.max_iterations})"
            )

    def scores(self, problem: InfluenceProblem) -> Tensor:
        """See `Estimator.scores`."""
        loss = TrainingLoss.of(problem)
        item, term = own_terms(loss.items, problem.items)
        if not term.numel():
            raise UnsupportedMethodError(
                f"Expected {problem.items.of} with a loss term of their own under task '{problem.task.name}' (got "
                "none); use estimator 'edge_edit', which follows their messages"
            )
        weight = loss.weight.clone().requires_grad_()
        slope = _along(loss, self.solve(problem, loss), loss.data, weight)
        (per_term,) = grad(slope, weight)
        found = torch.zeros(problem.items.num_items, dtype=per_term.dtype, device=per_term.device)
        return found.index_add(0, item, (per_term * loss.weight)[term])

    def solve(self, problem: InfluenceProblem, loss: TrainingLoss) -> Tensor:
        """`(C + damping I)^-1 grad f` at the model's parameters, `[num_params]`."""
        self.look_at_training(problem, loss)
        matrix = Curvature(loss, self.curvature, self.weight_decay)
        ends = lanczos(matrix, loss.weight, seed=problem.seed)
        solution, damping = self.invert(matrix, _target_gradient(problem, loss), ends, loss)
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
        """The solution and the damping that it was found with."""
        damping = self.chosen_damping(ends)
        if ends.smallest + damping < 0 and -ends.smallest > 1e-6 * abs(ends.largest):
            raise DivergenceError(
                f"Expected a damping above {-ends.smallest:.3g}, so that the {self.curvature} is positive definite "
                f"(got {damping:.3g}); leave it to be chosen, or use curvature='gauss_newton'"
            )
        return conjugate_gradient(matrix, b, damping, self.tolerance, self.max_iterations), damping

    def chosen_damping(self, ends: Spectrum) -> float:
        """The option, or what the spectrum asks for; a loss without any curvature gets 1."""
        return self.damping if self.damping is not None else ends.damping() or 1.0

    def look_at_training(self, problem: InfluenceProblem, loss: TrainingLoss) -> None:
        """Note how far the model is from a stationary point of the training loss; warn where it is far."""
        value = loss()
        theta = torch.cat([p.detach().reshape(-1) for p in loss.params])
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


@dataclass(frozen=True)
class EdgeEdit(InverseHessian):
    r"""Influence of an edit of the graph: shift of the parameters plus change of the messages (arXiv 2506.04694).

    The item leaves the graph, with its own loss term where it has one; the losses of all nodes that its messages
    reached change with it. With :math:`L` on the edited graph :math:`G^-`,

    .. math:: \underbrace{-s^\top \big(\nabla L(\theta; G^-) - \nabla L(\theta; G)\big)}_{\text{parameter shift}}
              + \underbrace{f(\theta; G^-) - f(\theta; G)}_{\text{message propagation}},
              \qquad (C + \lambda I)\, s = \nabla f(\theta; G),

    with Gauss-Newton curvature. The paper takes the second term to first order, `-df/dA`; with `edit="exact"` both
    are those of the truly edited graph.

    Args:
        curvature: see `InverseHessian`, as the next four.
        damping: see there.
        tolerance: see there.
        max_iterations: see there.
        weight_decay: see there.
        edit: `"exact"`, a forward and a backward pass per item, or `"first_order"`, two passes for all items together:
            edge weights tend to zero, for models that take `edge_weight`.
        terms: `"both"`, or `"shift"` or `"message"` alone.

    Raises:
        UnsupportedMethodError: a first-order edit of features, or of a model without `edge_weight`.
    """

    edit: str = "exact"
    terms: str = "both"

    name = "edge_edit"
    summary = "parameter shift by the inverse Gauss-Newton matrix, plus the change of messages"
    paper = "arXiv 2506.04694"
    of = ("edges", "nodes", "features")
    cost = "some hundred passes, then two passes per item, or (edit='first_order') two for all"

    def __post_init__(self) -> None:
        """Refuse bad options at construction."""
        super().__post_init__()
        if self.edit not in ("exact", "first_order") or self.terms not in ("both", "shift", "message"):
            raise InvalidInputError(
                "Expected 'edit' to be 'exact' or 'first_order' and 'terms' to be 'both', 'shift' or 'message' "
                f"(got {self.edit!r}, {self.terms!r})"
            )

    def scores(self, problem: InfluenceProblem) -> Tensor:
        """See `Estimator.scores`."""
        loss = TrainingLoss.of(problem)
        s = None if self.terms == "message" else self.solve(problem, loss)
        shift, message = (_exact if self.edit == "exact" else _first_order)(problem, loss, s)
        return message if self.terms == "message" else shift if self.terms == "shift" else shift + message


@dataclass(frozen=True)
class GIF(EdgeEdit):
    r"""Graph influence function (arXiv 2304.02835): the shift of the parameters alone.

    :math:`\Delta\theta = H^{-1} v` with :math:`v` the change of the summed training loss's gradient over all nodes that
    the item's messages reach; the target's change is read off as :math:`\nabla f^\top \Delta\theta`, on the graph as
    it was: no message term.

    `mode="paper"` does what the authors' code does: the Hessian of the summed loss on the whole graph, inverted by
    LiSSA, `h <- v + (1 - damp) h - (H h) / scale`, with a fixed number of steps and no damping (100 steps, scale 500:
    their README). Cut off there it is far from solved; `notes["residual"]` says how far. Default mode solves the damped
    system by conjugate gradients.

    Args:
        curvature: see `InverseHessian`, as the next four; default the Hessian.
        damping: see there; in paper mode in units of `scale`, `None` for 0.
        tolerance: see there; default mode alone.
        max_iterations: see there; default mode alone.
        weight_decay: see there.
        edit: see `EdgeEdit`.
        terms: `"shift"`, the method; others as in `EdgeEdit`.
        mode: `"default"` or `"paper"`.
        iterations: LiSSA's steps.
        scale: LiSSA's scale, for the summed loss.

    Raises:
        DivergenceError: LiSSA ended farther from the solution than it began.
    """

    curvature: str = "hessian"
    terms: str = "shift"
    mode: str = "default"
    iterations: int = 100
    scale: float = 500.0

    name = "gif"
    summary = "parameter shift alone; paper mode: LiSSA on the Hessian of the summed loss"
    paper = "arXiv 2304.02835"

    def __post_init__(self) -> None:
        """Refuse bad options at construction."""
        super().__post_init__()
        if self.mode not in ("default", "paper"):
            raise InvalidInputError(f"Expected 'mode' to be 'default' or 'paper' (got {self.mode!r})")

    def invert(self, matrix: Curvature, b: Tensor, ends: Spectrum, loss: TrainingLoss) -> tuple[Solution, float]:
        """See `InverseHessian.invert`; paper mode refuses what LiSSA cannot invert."""
        if self.mode == "default":
            return super().invert(matrix, b, ends, loss)
        n, damping = loss.weight.numel(), self.damping or 0.0
        # The mean loss has curvature C = H / n: scale / n on C takes the steps that scale takes on H.
        solution = lissa(matrix, b, self.iterations, self.scale / n, damping)
        return solution, damping


def _target_gradient(problem: InfluenceProblem, loss: TrainingLoss) -> Tensor:
    return gradient(problem.target.value(loss.outputs()), loss.params)


def _along(loss: TrainingLoss, s: Tensor, data: object, weight: Tensor) -> Tensor:
    """`s^T grad_theta L`, differentiable in the weights of terms and edges."""
    return gradient(loss(data, weight), loss.params, create_graph=True) @ s


def _exact(problem: InfluenceProblem, loss: TrainingLoss, s: Tensor | None) -> tuple[Tensor, Tensor]:
    """Both terms, item by item, each on its edited graph; `[num_items]` each."""
    items, target, params = problem.items, problem.target, loss.params
    item, term = own_terms(loss.items, items)
    own = term.split(torch.bincount(item, minlength=items.num_items).tolist())
    shift, message = loss.weight.new_zeros(items.num_items), loss.weight.new_zeros(items.num_items)
    with torch.no_grad():
        before = target.value(loss.outputs())
    slope = 0.0 if s is None else gradient(loss(), params) @ s
    for i in range(items.num_items):
        with torch.set_grad_enabled(s is not None):
            outputs = loss.outputs(items.edited(problem.data, i))
        if s is not None:
            weight = loss.weight.index_fill(0, own[i], 0.0)
            shift[i] = slope - gradient(loss.mean(loss.predict(outputs), weight), params) @ s
        with torch.no_grad():
            message[i] = target.value(outputs.detach()) - before
    return shift, message


def _first_order(problem: InfluenceProblem, loss: TrainingLoss, s: Tensor | None) -> tuple[Tensor, Tensor]:
    """Both terms for all items at once: derivatives in the weights of edges and terms; `[num_items]` each."""
    items, data = problem.items, copy.copy(loss.data)
    if items.of == "features":
        raise UnsupportedMethodError("Expected edges or nodes for a first-order edit (got features); use edit='exact'")
    given = data.get("edge_weight")
    edge_weight = loss.weight.new_ones(data.edge_index.size(1)) if given is None else given.to(loss.weight)
    edge_weight = edge_weight.detach().clone().requires_grad_()
    data.edge_weight = edge_weight
    weight = loss.weight.clone().requires_grad_()
    with weighted_layers(problem.model) as all_weighted:
        slope = problem.target.value(loss.outputs(data))
    if not (all(all_weighted) and _depends(slope, edge_weight)):
        raise UnsupportedMethodError(
            "Expected a model all of whose layers take 'edge_weight' for a first-order edit (got "
            f"{type(problem.model).__name__}); "
            "use edit='exact'"
        )

    def removed(per_edge: Tensor) -> Tensor:
        """Sum over the columns that an item takes out, each falling from its weight to 0."""
        change = -(per_edge * edge_weight.detach())[items.column]
        return loss.weight.new_zeros(items.num_items).index_add(0, items.column_item, change)

    message = removed(grad(slope, edge_weight)[0])
    if s is None:
        return torch.zeros_like(message), message
    per_edge, per_term = grad(_along(loss, s, data, weight), [edge_weight, weight], materialize_grads=True)
    item, term = own_terms(loss.items, items)
    return (-removed(per_edge)).index_add(0, item, (per_term * loss.weight)[term]), message


def _depends(value: Tensor, on: Tensor) -> bool:
    if not value.requires_grad:
        return False
    return grad(value, on, retain_graph=True, allow_unused=True)[0] is not None
