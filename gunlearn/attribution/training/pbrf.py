"""The proximal Bregman response, computed by training: what influence functions of trained networks estimate."""

import copy
import warnings
from dataclasses import replace

import torch
from torch import Tensor
from torch.autograd import grad
from torch.nn.utils import vector_to_parameters
from torch_geometric.data import Data
from tqdm.auto import tqdm

from gunlearn.attribution.base import InfluenceProblem
from gunlearn.attribution.targets import as_value
from gunlearn.attribution.training.item_losses import own_terms
from gunlearn.curvature.products import Curvature
from gunlearn.curvature.solvers import conjugate_gradient
from gunlearn.curvature.training_loss import TrainingLoss, flat, gradient
from gunlearn.errors import DivergenceError, InvalidInputError, UnsupportedMethodError
from gunlearn.losses import Prediction


def pbrf(
    problem: InfluenceProblem,
    damping: float,
    *,
    steps: int = 20,
    tolerance: float = 1e-3,
    progress: bool = False,
) -> Tensor:
    r"""Compute the proximal Bregman response of a target to removing each item, `after - before`, `[num_items]`.

    From the trained parameters :math:`\theta_s`, for each item,

    .. math:: \theta_r = \arg\min_\theta \frac1n \sum_i D_{\ell_i}\big(z_i(\theta; G), z_i(\theta_s; G)\big)
              + \frac{\lambda}{2} \|\theta - \theta_s\|^2 + L(\theta; G^-) - L(\theta; G),

    where :math:`D_\ell(z, z_s) = \ell(z) - \ell(z_s) - \nabla\ell(z_s)^\top (z - z_s)` keeps the logits `z` near the
    trained ones, and :math:`L(\theta; G^-)` is the loss on the graph without the item and its own terms. The response
    is :math:`f(\theta_r; G^-) - f(\theta_s; G)`: parameter shift and message change together.

    Retraining from scratch answers another question, drowned in the noise of initialisation. This response needs no
    stationary point; its derivative in the size of the edit is the influence function with Gauss-Newton curvature and
    the same damping (Bae et al., arXiv 2209.05364, section 4; for edges arXiv 2506.04694, section 4).

    :math:`L(\theta; G)` cancels: the objective is :math:`L(\theta; G^-) - \langle \nabla_z L(\theta_s; G), z(\theta; G)
    \rangle + \frac\lambda2 \|\theta - \theta_s\|^2`. Newton steps, preconditioned with the damped Gauss-Newton matrix
    at :math:`\theta_s` on :math:`G^-`, stop at its stationary point. Use a float64 model: the response of one edge is a
    small difference.

    `problem.notes` gets `"pbrf_gradient"` (largest remaining share of the gradient), `"pbrf_not_stationary"` (number of
    items above `tolerance`) and `"pbrf_steps"` (mean number of steps).

    Args:
        problem: a problem with a target of kind "value".
        damping: `lambda > 0`; must equal that of the estimator under study.
        steps: most Newton steps per item.
        tolerance: stop where the gradient has shrunk to this share of its start.
        progress: show a progress bar.

    Raises:
        InvalidInputError: bad settings.
        UnsupportedMethodError: a target that is no value, or a task without logits.
        DivergenceError: the objective became NaN.
    """
    if not (damping > 0 and steps >= 1 and 0 < tolerance < 1):
        raise InvalidInputError(
            f"Expected damping > 0, steps >= 1 and 0 < tolerance < 1 (got {damping}, {steps}, {tolerance})"
        )
    value = as_value(problem.target, "pbrf")
    still = TrainingLoss.of(problem)
    prediction = still.predict(still.outputs())
    slope = grad(still.mean(prediction), _logits(prediction))[0].detach()
    with torch.no_grad():
        before = value.value(still.outputs())
    # The search moves the parameters of a copy in place; the target is bound to that copy.
    moving = replace(still, model=copy.deepcopy(problem.model))
    target = as_value(value.bind(moving.model, problem.data, problem.task), "pbrf")
    search = _Search(still, moving, slope, damping, steps, tolerance)
    item, term = own_terms(still.items, problem.items)
    own = term.split(torch.bincount(item, minlength=problem.items.num_items).tolist())
    found, left, taken, stuck = before.new_zeros(problem.items.num_items), 0.0, 0, 0
    for i in tqdm(range(problem.items.num_items), disable=not progress, desc="pbrf"):
        edited = problem.items.edited(problem.data, i)
        share, used = search.respond(edited, still.weight.index_fill(0, own[i], 0.0))
        left, taken, stuck = max(left, share), taken + used, stuck + (share > tolerance)
        with torch.no_grad():
            found[i] = target.value(moving.outputs(edited)) - before
    problem.notes |= {
        "pbrf_gradient": left,
        "pbrf_steps": taken / problem.items.num_items,
        "pbrf_not_stationary": stuck,
    }
    if left > tolerance:
        warnings.warn(
            f"{stuck} proximal Bregman responses stopped with up to {left:.2g} of their gradient left (asked for "
            f"{tolerance:.2g}): raise 'steps' or 'damping', or use a float64 model; at a kink of a ReLU no gradient "
            "vanishes",
            stacklevel=2,
        )
    return found


class _Search:
    """Minimises one item's objective after another; `still` is the trained model's loss, `moving` that of its copy."""

    def __init__(
        self, still: TrainingLoss, moving: TrainingLoss, slope: Tensor, damping: float, steps: int, tolerance: float
    ) -> None:
        self.still, self.loss, self.params, self.slope = still, moving, moving.params, slope
        self.damping, self.steps, self.tolerance = damping, steps, tolerance
        self.start = flat(self.params).detach().clone()

    def respond(self, edited: Data, weight: Tensor) -> tuple[float, int]:
        """Move the model to the response; return the remaining share of the gradient and the number of steps."""
        theta = self.start
        value, g = self._objective(theta, edited, weight)
        first = float(g.norm())
        if first <= 1e-14 * (1 + float(self.slope.norm())):  # no training node within reach of the edit
            return 0.0, 0
        # Inexact Newton steps: at the trained weights the objective's curvature is the Gauss-Newton matrix of the
        # edited graph, up to terms of the size of the edit.
        matrix, step = Curvature(self.still, data=edited, weight=weight), 0
        while step < self.steps and float(g.norm()) > self.tolerance * first:
            move = conjugate_gradient(matrix, g, self.damping, tolerance=0.05).x
            for _ in range(8):
                tried = self._objective(theta - move, edited, weight)
                # Near the end values differ by less than rounding does; gradients still tell.
                if tried[0] < value - 1e-4 * float(g @ move) or float(tried[1].norm()) < 0.5 * float(g.norm()):
                    break
                move = move / 2
            else:  # a kink of a ReLU: no step leads further down
                break
            theta, step = theta - move, step + 1
            value, g = tried
        vector_to_parameters(theta, self.params)
        return float(g.norm()) / first, step

    def _objective(self, theta: Tensor, edited: Data, weight: Tensor) -> tuple[float, Tensor]:
        vector_to_parameters(theta, self.params)
        far = flat(self.params) - self.start
        near = (self.slope * _logits(self.loss.predict(self.loss.outputs()))).sum()
        value = self.loss(edited, weight) - near + self.damping / 2 * (far @ far)
        g = gradient(value, self.params)
        if not torch.isfinite(g).all():
            raise DivergenceError("Expected a finite proximal Bregman objective (got NaN or infinity); raise 'damping'")
        return value.item(), g


def _logits(prediction: Prediction) -> Tensor:
    if prediction.logits is None:
        raise UnsupportedMethodError("Expected predictions with logits (got none)")
    return prediction.logits
