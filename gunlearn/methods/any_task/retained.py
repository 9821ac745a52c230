"""Methods that forget and keep the retained data in place: gradient difference and NPO."""

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

#: Losses on the retained data by name.
RETAIN_LOSSES: dict[str, Loss] = {
    "nll": NLL(on="retain"),
    "kl": KLToReference(on="retain"),
    "jsd": JSDToReference(on="retain"),
    "hidden": MSEToReference(on="retain"),
    "logits": MSEToReference(on="retain", field="logits"),
}


def held(method: Any, forget: Loss, *more: tuple[float, Loss]) -> Objective:
    """Return the weighted sum of `forget`, the retain loss and `more` terms, without terms of weight 0.

    `method` has the options `forget_weight`, `retain_weight` and `retain_loss`; `more` are weights and losses.
    """
    for name in ("forget_weight", "retain_weight"):
        check_number(name, getattr(method, name), minimum=0.0)
    check_choice("retain_loss", method.retain_loss, tuple(RETAIN_LOSSES))
    retain = (method.retain_weight, RETAIN_LOSSES[method.retain_loss])
    return weighted((method.forget_weight, forget), retain, *more)


@dataclass(frozen=True)
class GradDiff(GradientMethod):
    """Raise the forget set's loss and lower the retained one's (arXiv 2203.12817).

    Args:
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
    """NPO on the forget set, plus terms that keep the retained data in place (arXiv 2404.05868).

    The default is the paper's "NPO+RT": plus the retained data's negative log-likelihood. The variant `"kl"` is its
    "NPO+KL": plus the divergence of the retained predictions from the original model's, without the likelihood.

    Args:
        beta: inverse temperature; towards 0 NPO becomes gradient ascent.
        retain_weight: weight of the retained data's loss; 0 drops it.
        kl_weight: weight of the divergence from the original model on the retained data; 0 drops it.
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
        return super().label.replace("default", "kl", 1) if self.kl_weight else super().label

    def objective(self) -> Objective:
        check_number("kl_weight", self.kl_weight, minimum=0.0)
        return held(self, NPO(beta=self.beta, on="forget"), (self.kl_weight, KLToReference(on="retain")))
