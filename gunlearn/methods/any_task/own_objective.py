"""A method that minimises an objective of the caller's own."""

from __future__ import annotations

from dataclasses import dataclass, field

from gunlearn.losses import NLL, Loss, Objective, as_objective
from gunlearn.methods.gradient import GradientMethod


@dataclass(frozen=True)
class OwnObjective(GradientMethod):
    """Minimise any objective over the parts that the task names.

    Args:
        given: the objective, `NPO(beta=1) + NLL(on="retain")`.

    Example:
        >>> from gunlearn.losses import NLL, NPO
        >>> OwnObjective(given=NPO(beta=1.0) + NLL(on="retain"), epochs=20).objective().parts
        ('forget', 'retain')
    """

    given: Loss | Objective = field(default_factory=lambda: NLL(on="retain"))

    summary = "an objective of your own"
    cost = "`epochs` passes"

    def objective(self) -> Objective:
        """Return what was given."""
        return as_objective(self.given)
