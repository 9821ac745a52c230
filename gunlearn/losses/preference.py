"""Losses that prefer anything to the forgotten answer."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from torch import Tensor

from gunlearn.core.checks import check_choice, check_number
from gunlearn.losses import functional
from gunlearn.losses.base import Loss
from gunlearn.losses.prediction import Prediction


@dataclass(frozen=True, repr=False)
class NPO(Loss):
    r"""Negative preference optimisation, `"Negative Preference Optimization" <https://arxiv.org/abs/2404.05868>`_.

    .. math:: \frac{2}{\beta} \log\Big(1 + \big(p / p_{ref}\big)^\beta\Big)

    Gradient ascent that fades out once an item is less likely than under the reference: it multiplies the gradient of
    ascent by :math:`2 p^\beta / (p^\beta + p_{ref}^\beta)`, item by item.

    Args:
        beta: inverse temperature; 0.1 in the paper (language models), 5 in INPO's code (edges). Towards 0 the gradient
            is that of `GradientAscent`.
        ratio_offset: constant added to the ratio; INPO's code has 1e-4.
        per: the unit of a preference where `log_prob` is `[num_items, num_tokens]`: `"item"` adds up the tokens of a
            sequence first, as the paper does; `"token"` takes each token by itself.

    Example:
        >>> import torch
        >>> same = Prediction(log_prob=torch.tensor([0.9, 0.2]).log())
        >>> NPO(beta=5)(same, same)  # 2 ln 2 / 5
        tensor(0.2773)
    """

    name = "npo"
    summary = "lowers the likelihood of the forgotten data relative to the reference, ever more slowly"
    paper = "Negative Preference Optimization: From Catastrophic Collapse to Effective Unlearning"
    arxiv = "2404.05868"
    needs_reference = True

    beta: float = 0.1
    ratio_offset: float = 0.0
    _: KW_ONLY
    per: str = "item"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("beta", self.beta, positive=True)
        check_number("ratio_offset", self.ratio_offset, minimum=0.0)
        check_choice("per", self.per, ("item", "token"))

    @property
    def whole_items(self) -> bool:
        return self.per == "item"

    def values(self, current: Prediction, reference: Prediction) -> Tensor:
        now, before = current.log_prob, reference.log_prob
        if self.per == "item":
            now, before = (functional.sum_tokens(x, current.mask) for x in (now, before))
        return functional.npo(now, before, self.beta, self.ratio_offset)


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
