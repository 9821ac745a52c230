"""Gradient ascent weighted by how likely the model finds each token."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gunlearn.core.checks import check_number
from gunlearn.losses import functional
from gunlearn.losses.base import Loss
from gunlearn.losses.prediction import Prediction


@dataclass(frozen=True, repr=False)
class WGA(Loss):
    r"""Weighted gradient ascent, `"Rethinking LLM Unlearning Objectives" <https://arxiv.org/abs/2502.19301>`_.

    .. math:: sg(p^\beta) \log p

    `sg` stops the gradient, so that the gradient is that of `GradientAscent` times :math:`p^\beta`: tokens that the
    model has forgotten are left alone.

    Args:
        beta: how fast the weight falls, positive; 1 in open-unlearning. Its limit 0 is `GradientAscent`.

    Example:
        >>> import torch
        >>> WGA()(Prediction(log_prob=torch.tensor([0.5]).log()))  # ln(1/2) / 2
        tensor(-0.3466)
    """

    name = "wga"
    summary = "gradient ascent, each token weighted by its likelihood"
    paper = "Rethinking LLM Unlearning Objectives: A Gradient Perspective and Go Beyond"
    arxiv = "2502.19301"

    beta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("beta", self.beta, positive=True)

    def values(self, current: Prediction, reference: Prediction | None = None) -> Tensor:
        return functional.weighted_ascent(current.log_prob, self.beta)


@dataclass(frozen=True, repr=False)
class SatImp(Loss):
    r"""Ascent by saturation and importance, `"Exploring Criteria of Loss Reweighting" <https://arxiv.org/abs/2505.11953>`_.

    .. math:: sg\big(p^{\beta_1} (1 - p)^{\beta_2}\big) \log p

    Weighs tokens most that are neither forgotten nor certain.

    Args:
        beta1: exponent of saturation, 5 in open-unlearning (weights 0.1 for this term and 1 for the retained data).
        beta2: exponent of importance, 1 there.

    Example:
        >>> SatImp(beta2=0.5)
        SatImp(beta2=0.5)
    """

    name = "sat_imp"
    summary = "gradient ascent, most on tokens that are neither forgotten nor certain"
    paper = "Exploring Criteria of Loss Reweighting to Enhance LLM Unlearning"
    arxiv = "2505.11953"

    beta1: float = 5.0
    beta2: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("beta1", self.beta1, positive=True)
        check_number("beta2", self.beta2, minimum=0.0)

    def values(self, current: Prediction, reference: Prediction | None = None) -> Tensor:
        return functional.weighted_ascent(current.log_prob, self.beta1, self.beta2)
