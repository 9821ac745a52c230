"""Methods that forget and hold the retained data in place: gradient difference and NPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from gunlearn.core.checks import check_choice, check_number
from gunlearn.losses import (
    NLL,
    NPO,
    GradientAscent,
    JSDToReference,
    KLToReference,
    Loss,
    MSEToReference,
    Objective,
    weighted,
)
from gunlearn.methods.gradient import GradientMethod

#: Losses on the retained data by name, for methods that let one choose.
RETAIN_LOSSES: dict[str, Loss] = {
    "nll": NLL(on="retain"),
    "kl": KLToReference(on="retain"),
    "jsd": JSDToReference(on="retain"),
    "hidden": MSEToReference(on="retain"),
    "logits": MSEToReference(on="retain", field="logits"),
}


def held(method: Any, forget: Loss, *more: tuple[float, Loss]) -> Objective:
    """Return a forget loss, the retain loss of a method's options, and `more` terms, without those that weigh nothing.

    Args:
        method: with options `forget_weight`, `retain_weight` and `retain_loss`.
        forget: the forget loss.
        more: weights and losses.
    """
    for name in ("forget_weight", "retain_weight"):
        check_number(name, getattr(method, name), minimum=0.0)
    check_choice("retain_loss", method.retain_loss, tuple(RETAIN_LOSSES))
    retain = (method.retain_weight, RETAIN_LOSSES[method.retain_loss])
    return weighted((method.forget_weight, forget), retain, *more)


@dataclass(frozen=True)
class GradDiff(GradientMethod):
    """Raise the forget set's loss while lowering the retained one's (arXiv 2203.12817).

    Args:
        retain_weight: weight of the retained data's loss.
        forget_weight: weight of the ascent.
        retain_loss: the retained data's loss, a name of `RETAIN_LOSSES`.
        max_grad_norm: clipping, since the ascent is unbounded.
    """

    epochs: int = 30
    max_grad_norm: float | None = 1.0
    retain_weight: float = 1.0
    forget_weight: float = 1.0
    retain_loss: str = "nll"

    name = "graddiff"
    summary = "gradient ascent on the forget set, descent on the retained data"
    paper = "arXiv 2203.12817"
    needs = "retained data"
    cost = "`epochs` passes"

    def objective(self) -> Objective:
        return held(self, GradientAscent(on="forget"))


@dataclass(frozen=True)
class NPOMethod(GradientMethod):
    """NPO on the forget set, plus what keeps the retained data as it is (arXiv 2404.05868).

    The paper's "NPO+RT" adds the retained data's negative log-likelihood, its "NPO+KL" the divergence of the retained
    predictions from the original model's; the variant `"kl"` is the latter alone.

    Args:
        beta: inverse temperature; towards 0 it becomes gradient ascent.
        retain_weight: weight of the retained data's loss; 0 leaves it out.
        kl_weight: weight of the divergence from the original model on the retained data; 0 leaves it out.
        forget_weight: weight of NPO.
        retain_loss: the retained data's loss, a name of `RETAIN_LOSSES`.
    """

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
        check_number("kl_weight", self.kl_weight, minimum=0.0)
        return held(self, NPO(beta=self.beta, on="forget"), (self.kl_weight, KLToReference(on="retain")))
