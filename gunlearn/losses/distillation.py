"""Losses that teach a model the predictions of a teacher."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from torch import Tensor

from gunlearn.core.checks import check_number
from gunlearn.losses import functional
from gunlearn.losses.base import Loss
from gunlearn.losses.prediction import Prediction


@dataclass(frozen=True, repr=False)
class Distillation(Loss):
    r"""Divergence from a teacher's softened predictions, `"Distilling the Knowledge" <https://arxiv.org/abs/1503.02531>`_.

    .. math:: T^2 \, KL\big(p_T(z_{ref}) \,\|\, p_T(z)\big), \qquad p_T(z) = \mathrm{softmax}(z / T)

    SCRUB's distance `d` (arXiv 2302.09880), which it lowers on the retained data and raises on the forgotten. The
    distance has no upper bound. It also grows where the student becomes *more* certain of the true class than the
    teacher, and the more so the higher `T`.

    Logits shaped like `log_prob` are Bernoulli (an edge), others categorical.

    Args:
        temperature: divides both models' logits; 1 is `KLToReference`.

    Example:
        >>> Distillation(2.0, on="retain")
        Distillation(temperature=2.0, on='retain')
    """

    name = "distillation"
    summary = "divergence from a teacher's predictions, both softened by a temperature"
    paper = "Distilling the Knowledge in a Neural Network"
    arxiv = "1503.02531"
    needs_reference = True
    reads = ("logits",)

    temperature: float = 1.0
    _: KW_ONLY
    on: str = "forget"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("temperature", self.temperature, positive=True)

    def values(self, current: Prediction, reference: Prediction) -> Tensor:
        logits = current.require("logits")
        bernoulli = logits.shape == current.log_prob.shape
        return functional.distillation(logits, reference.require("logits"), self.temperature, bernoulli)
