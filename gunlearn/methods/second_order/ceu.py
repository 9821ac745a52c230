"""CEU: Newton's step by conjugate gradients, certified if the loss is strictly convex."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from gunlearn.curvature.training_loss import flat, gradient
from gunlearn.errors import InvalidInputError, UnsupportedMethodError
from gunlearn.methods.linear_head.accountant import no_draw
from gunlearn.methods.second_order.influence_update import InfluenceUpdate
from gunlearn.methods.second_order.removal import Removal

STATIONARY = 1e-2  # largest gradient of the perturbed loss at a minimum, as a share of the perturbation


@dataclass(frozen=True)
class CEU(InfluenceUpdate):
    r"""Certified edge unlearning (Wu et al., KDD 2023): Newton's step after training on a perturbed loss.

    The certificate needs a model that minimises

    .. math:: L_b(\theta) = \frac1n \sum_i \ell_i + \frac{\lambda}{2} \|\theta\|^2 + \frac1n b^\top \theta, \qquad
              b \sim N(0, \alpha^2 I),

    strictly convex: logits linear in the weights (one linear layer) and :math:`\lambda > 0`. With :math:`\beta` the
    norm of :math:`n \nabla L_b` on the retained data after the step, training on the retained data (over the same `n`)
    with another `b`, at distance :math:`\beta`, gives the new weights; so removal is
    :math:`(\epsilon, \delta)`-certified for :math:`\epsilon = \beta \sqrt{2 \ln (1.5 / \delta)} / \alpha` (Guo et al.,
    arXiv 1911.03030, theorem 3), if that is at most 1. :math:`\beta` is computed at this model, not bounded by a worst
    case. `notes["certificate"]` has `status`, epsilon, delta and beta, or the `reason` for "uncertified".

    Args:
        weight_decay: lambda (authors: 0.01).
        perturbation: `b` of the model's training, `[num_params]` in the order of `model.parameters()`.
        noise: alpha, the standard deviation of `b` (authors: 0.1).
    """

    perturbation: Tensor | None = None
    noise: float = 0.1
    delta: float = 1e-4

    name = "ceu"
    summary = "Newton's step by conjugate gradients; certified for a strictly convex, perturbed loss"
    paper = "Certified Edge Unlearning for Graph Neural Networks (KDD 2023)"
    requests: ClassVar[tuple[str, ...]] = ("edges", "nodes", "features")
    tasks = ("node_classification", "link_prediction", "node_regression", "node_multilabel")
    certified = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.noise > 0 and 0 < self.delta < 1):
            raise InvalidInputError(f"Expected noise > 0 and 0 < delta < 1 (got {self.noise} and {self.delta})")

    def config(self) -> dict[str, Any]:
        b = self.perturbation
        return {**super().config(), "perturbation": None if b is None else float(b.norm())}

    def remarks(self, removal: Removal, before: Tensor) -> dict[str, Any]:
        b, objection = self.perturbation, "no perturbation was named that the model was trained with"
        if b is not None:
            objection = self.objection(removal, before, b)
        if b is not None and not objection:
            beta = float(self.slope(removal.rest, b).norm())
            epsilon = beta * math.sqrt(2 * math.log(1.5 / self.delta)) / self.noise
            if epsilon <= 1:
                return {"certificate": {"status": "certified", "epsilon": epsilon, "delta": self.delta, "beta": beta}}
            objection = f"epsilon would be {epsilon:.3g}, and the bound holds up to 1"
        return {"certificate": {"status": "uncertified", "reason": objection}}

    def objection(self, removal: Removal, before: Tensor, b: Tensor) -> str:
        """Return the assumption of the certificate that fails; empty if all hold."""
        if b.shape != before.shape:
            raise InvalidInputError(f"Expected a perturbation of shape {tuple(before.shape)} (got {tuple(b.shape)})")
        if not self.weight_decay > 0:
            return "without weight decay the loss is not strictly convex"
        after = removal.weights()
        step = before.norm().clamp(min=1.0) * torch.nn.functional.normalize(torch.ones_like(before), dim=0)
        with torch.no_grad():
            at, ahead, behind = (_logits(removal, theta) for theta in (before, before + step, before - step))
        removal.put(before)
        slope = self.slope(removal.whole, b)
        removal.put(after)
        if float((ahead + behind - 2 * at).norm()) > 1e-4 * float((ahead - behind).norm()):
            return "the logits are not linear in the weights, so the loss is not strictly convex"
        objection, size = no_draw(b, self.noise), float(b.norm())
        if not objection and float(slope.norm()) > STATIONARY * size:
            objection = (
                "the model is not at the minimum of the perturbed loss "
                f"(a gradient of {float(slope.norm()):.3g} beside a perturbation of {size:.3g})"
            )
        return objection

    def slope(self, loss: Any, b: Tensor) -> Tensor:
        """Return the gradient of the summed, regularised and perturbed loss, `[num_params]`."""
        theta = flat([p.detach() for p in loss.params])
        summed = gradient(loss(), loss.params) + self.weight_decay * theta
        return summed * loss.num_terms + b.to(theta)


def _logits(removal: Removal, theta: Tensor) -> Tensor:
    removal.put(theta)
    whole: Any = removal.whole
    logits = whole.predict(whole.outputs()).logits
    if logits is None:
        raise UnsupportedMethodError("Expected predictions with logits (got none)")
    return logits.detach()
