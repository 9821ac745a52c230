"""The (epsilon, delta) accountant of linear heads: assumptions of a certificate, and its budget."""

import math
from dataclasses import dataclass

from torch import Tensor

from gunlearn.errors import InvalidInputError
from gunlearn.methods.linear_head.convex import Logistic
from gunlearn.nn.layers.linear_head import LinearHead


@dataclass(frozen=True)
class Accountant:
    """Certified removal by loss perturbation (Guo et al., arXiv 1911.03030, theorem 3).

    Training minimises `L(w) + b w` with `b ~ N(0, alpha^2 I)`. A model is `(epsilon, delta)`-indistinguishable from one
    trained without the forgotten data if its gradient `||grad L(w) + b||` on the retained data, a sum over nodes and
    over all classes together, is at most `alpha epsilon / sqrt(2 ln(1.5 / delta))`. The head records the sum of the
    gradient's bounds over its requests, which must not depend on `b`.

    Args:
        epsilon: in (0, 1]; above 1 the tail bound behind the formula is false.
        delta: in (0, 1).
    """

    epsilon: float = 1.0
    delta: float = 1e-4

    def __post_init__(self) -> None:
        if not (0 < self.epsilon <= 1 and 0 < self.delta < 1):
            raise InvalidInputError(
                f"Expected epsilon in (0, 1] and delta in (0, 1) (got {self.epsilon} and {self.delta})"
            )

    def budget(self, alpha: float) -> float:
        """Return the largest gradient norm that the certificate allows, for noise of standard deviation `alpha`."""
        return alpha * self.epsilon / math.sqrt(2 * math.log(1.5 / self.delta))

    def doubt(self, head: LinearHead | None, problem: Logistic, residual: Tensor, allowed: Tensor) -> str:
        """Return why there is no certificate; empty if there is one.

        The gradient of `problem`, on the data before the request, has the norms `residual` at the weights and at most
        `allowed` by the record, `[num_classes]` each; `head` is `None` for a model without a record.
        """
        if head is None:
            return "no record of the training: see gunlearn.methods.fit_linear_head"
        lam, alpha = float(head.lam), float(head.alpha)
        if not lam > 0:
            return f"the loss is not strictly convex: lambda is {lam:g}"
        if not alpha > 0:
            return f"trained without perturbation: alpha is {alpha:g}"
        objection = no_draw(problem.perturbation, alpha)
        if not objection and bool((residual > allowed).any()):
            objection = (
                "not at the optimum of the perturbed loss on this data: the gradient's norm is "
                f"{float(residual.norm()):.3g}, the record says at most {float(allowed.norm()):.3g}"
            )
        return objection


def no_draw(perturbation: Tensor, alpha: float) -> str:
    """Return why a perturbation cannot be a draw of `N(0, alpha^2 I)`; empty if its norm allows it.

    Its squared norm over `alpha^2` is chi-square, the root of that close to normal with variance 1 / 2.
    """
    norm = float(perturbation.norm())
    if abs(math.sqrt(2) * norm / alpha - math.sqrt(2 * perturbation.numel() - 1)) <= 6:
        return ""
    return f"the recorded perturbation is no draw of N(0, {alpha:g}^2): its norm is {norm:.3g}"
