"""Losses that teach a model what a teacher says."""

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

    SCRUB's distance `d` (arXiv 2302.09880), which it lowers on the retained data and raises on the forgotten. Raised,
    it has no upper bound, and two ways up. A softened teacher leaves mass on the classes it does not mean, so that a
    student that becomes *more* certain of the true class departs from it as well; the more so the higher `T`.

    Logits shaped like `log_prob` are Bernoulli (an edge), others categorical.

    Args:
        temperature: what both models' logits are divided by; 1 is `KLToReference`.

    Example:
        >>> Distillation(2.0, on="retain")
        Distillation(temperature=2.0, on='retain')
    """

    name = "distillation"
    summary = "divergence from a teacher's predictions, both softened by a temperature"
    paper = "Distilling the Knowledge in a Neural Network"
    arxiv = "1503.02531"
    needs_reference = True

    temperature: float = 1.0
    _: KW_ONLY
    on: str = "forget"

    def __post_init__(self) -> None:
        """Check the temperature at construction."""
        super().__post_init__()
        check_number("temperature", self.temperature, positive=True)

    @property
    def reads(self) -> tuple[str, ...]:
        """Logits alone."""
        return ("logits",)

    def values(self, current: Prediction, reference: Prediction) -> Tensor:
        """See `functional.distillation`."""
        bernoulli = current.logits.shape == current.log_prob.shape
        return functional.distillation(current.logits, reference.logits, self.temperature, bernoulli)
