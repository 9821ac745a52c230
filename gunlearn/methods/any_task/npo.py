"""NPO: negative preference optimisation, with what holds the rest in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from gunlearn.core.checks import check_number
from gunlearn.losses import NPO, KLToReference, Objective
from gunlearn.methods.any_task.retained import held
from gunlearn.methods.gradient import GradientMethod


@dataclass(frozen=True)
class NPOMethod(GradientMethod):
    """NPO on the forget set, plus what keeps the retained data as it is (arXiv 2404.05868).

    The paper's "NPO+RT" adds the retained data's negative log-likelihood, its "NPO+KL" the divergence of the retained
    predictions from the original model's; the variant `"kl"` is the latter alone.

    Args:
        epochs: passes over the items.
        beta: inverse temperature; towards 0 it becomes gradient ascent.
        retain_weight: weight of the retained data's loss; 0 leaves it out.
        kl_weight: weight of the divergence from the original model on the retained data; 0 leaves it out.
        forget_weight: weight of NPO.
        retain_loss: the retained data's loss, a name of `RETAIN_LOSSES`.
    """

    epochs: int = 100
    beta: float = 5.0
    retain_weight: float = 1.0
    kl_weight: float = 0.0
    forget_weight: float = 1.0
    retain_loss: str = "nll"

    name = "npo"
    summary = "negative preference optimisation plus the retained loss, or a divergence that stays small"
    paper = "arXiv 2404.05868"
    needs = "retained data, reference model"
    cost = "`epochs` passes"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"default": {}, "kl": {"retain_weight": 0.0, "kl_weight": 1.0}}

    @property
    def label(self) -> str:
        """Return whether the divergence takes part, and the stop criterion where it is not the usual one."""
        return super().label.replace("default", "kl", 1) if self.kl_weight else super().label

    def objective(self) -> Objective:
        """NPO plus the weighted terms on the retained data."""
        check_number("kl_weight", self.kl_weight, minimum=0.0)
        return held(self, NPO(beta=self.beta, on="forget"), (self.kl_weight, KLToReference(on="retain")))
