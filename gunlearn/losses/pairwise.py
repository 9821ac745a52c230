"""Losses that compare the forgotten answer with another one, or with a reference point."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gunlearn.core.checks import check_name, check_number, check_same_shape
from gunlearn.losses import functional
from gunlearn.losses.base import Loss
from gunlearn.losses.prediction import Prediction


@dataclass(frozen=True, repr=False)
class DPO(Loss):
    r"""Direct preference optimisation of another answer, `"DPO" <https://arxiv.org/abs/2305.18290>`_.

    .. math:: -\log\sigma\Big(\beta \log\frac{p(y_w)}{p_{ref}(y_w)} - \beta \log\frac{p(y_l)}{p_{ref}(y_l)}\Big)

    The part `on` holds the forgotten answers :math:`y_l`, the part `preferred` the preferred ones :math:`y_w`; item `i`
    of both answers the same question. With refusals it is IdkDPO (TOFU, arXiv 2401.06121), with other plausible
    answers AltPO. Log-likelihoods are of whole sequences. An item without a preferred answer reduces to NPO; one
    without a forgotten answer does not count.

    Args:
        beta: inverse temperature; 0.1 in the paper and in open-unlearning.
        scale: multiplies the value by `scale / beta`; `None`, the factor 1, is the paper's and TRL's, 2 is
            open-unlearning's, which makes it comparable with `NPO`.
        preferred: name of the part with the preferred answers.

    Example:
        >>> DPO(scale=2).on_parts
        ('forget', 'alternative')
    """

    name = "dpo"
    summary = "prefers another answer to the forgotten one, relative to the reference"
    paper = "Direct Preference Optimization: Your Language Model is Secretly a Reward Model"
    arxiv = "2305.18290"
    needs_reference = True
    whole_items = True

    beta: float = 0.1
    scale: float | None = None
    preferred: str = "alternative"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("beta", self.beta, positive=True)
        if self.scale is not None:
            check_number("scale", self.scale, positive=True)
        check_name("preferred", self.preferred)

    @property
    def on_parts(self) -> tuple[str, ...]:
        return (self.on, self.preferred)

    @property
    def aligned_parts(self) -> tuple[str, ...]:
        """Both parts: the two answers are to the same question."""
        return self.on_parts

    def values(
        self, current: Prediction, reference: Prediction, preferred: Prediction, preferred_reference: Prediction
    ) -> Tensor:
        won, lost = log_ratio(preferred, preferred_reference), log_ratio(current, reference)
        check_same_shape(f"items of {self.label}", won, lost)
        return functional.dpo(won, lost, self.beta, self.scale)


@dataclass(frozen=True, repr=False)
class KTO(Loss):
    r"""The undesirable half of Kahneman-Tversky optimisation, after `"KTO" <https://arxiv.org/abs/2402.01306>`_.

    .. math:: 1 - \sigma\Big(\beta\, \Big(z_0 - \log\frac{p(y)}{p_{ref}(y)}\Big)\Big), \qquad
        z_0 = \max\Big(0, \frac1m \sum_j \log\frac{p(y'_j)}{p_{ref}(y'_j)}\Big)

    The forgotten data are undesirable, nothing is desirable, and :math:`\lambda_U` is the weight of the term. Unlike
    NPO it saturates on both sides: an item far more likely than under the reference has hardly any gradient.

    Args:
        beta: inverse temperature, 0.1 in the paper.
        point: name of the part that :math:`z_0` is computed on, in the paper questions paired with answers to others;
            `None` is :math:`z_0 = 0`. It carries no gradient. It is a mean over the items of one call, so that the
            value of a batch given in shares differs from that of the whole batch.

    Example:
        >>> KTO(point="mismatched").on_parts
        ('forget', 'mismatched')
    """

    name = "kto"
    summary = "makes the forgotten answer undesirable relative to the reference, with saturation"
    paper = "KTO: Model Alignment as Prospect Theoretic Optimization"
    arxiv = "2402.01306"
    needs_reference = True
    whole_items = True

    beta: float = 0.1
    point: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("beta", self.beta, positive=True)
        if self.point is not None:
            check_name("point", self.point)

    @property
    def on_parts(self) -> tuple[str, ...]:
        return (self.on,) if self.point is None else (self.on, self.point)

    def values(self, current: Prediction, reference: Prediction, *others: Prediction) -> Tensor:
        point: Tensor | float = 0.0
        if others:
            ratio, mask = log_ratio(*others).detach(), others[0].mask
            some = torch.ones_like(ratio, dtype=torch.bool) if mask is None else mask.flatten(1).any(1)
            point = ((ratio * some).sum() / some.sum().clamp_min(1)).clamp_min(0)
        return functional.kto(log_ratio(current, reference), self.beta, point)


def log_ratio(current: Prediction, reference: Prediction) -> Tensor:
    """Log-likelihood of each whole item less that under the reference, in nats, `[num_items]`."""
    now, before = (functional.sum_tokens(x.log_prob, current.mask) for x in (current, reference))
    return now - before
