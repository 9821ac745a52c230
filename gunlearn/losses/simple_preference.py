"""Negative preference optimisation without a reference model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gunlearn.core.checks import check_number
from gunlearn.losses import functional
from gunlearn.losses.base import Loss
from gunlearn.losses.prediction import Prediction


@dataclass(frozen=True, repr=False)
class SimNPO(Loss):
    r"""Length-normalised NPO without a reference, `"Simplicity Prevails" <https://arxiv.org/abs/2410.07163>`_.

    .. math:: -\frac{2}{\beta} \log\sigma\Big(-\tfrac{\beta}{|y|} \log p(y) - \gamma\Big), \qquad
        \gamma = \beta\delta

    The gradient of an item fades out once its loss per token is well above :math:`\delta`.

    Args:
        beta: inverse temperature; 4.5 in the authors' and open-unlearning's settings for TOFU (weight of the term 0.125
            beside 1 for the retained data), 1 is the default of open-unlearning's class.
        delta: threshold of the loss per token, 0 in the paper and the code.

    Example:
        >>> 0.125 * SimNPO()
        0.125 * SimNPO()
    """

    name = "sim_npo"
    summary = "lowers the likelihood per token of the forgotten data, ever more slowly, without a reference"
    paper = "Simplicity Prevails: Rethinking Negative Preference Optimization for LLM Unlearning"
    arxiv = "2410.07163"
    whole_items = True

    beta: float = 4.5
    delta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("beta", self.beta, positive=True)
        check_number("delta", self.delta)

    def values(self, current: Prediction, reference: Prediction | None = None) -> Tensor:
        return functional.sim_npo(functional.mean_tokens(current.log_prob, current.mask), self.beta, self.delta)
