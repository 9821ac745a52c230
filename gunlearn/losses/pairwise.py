"""Losses that compare an answer with another one, or with a point between likely and unlikely."""

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

    The forgotten answer :math:`y_l` is the part `on`, the preferred one :math:`y_w` the part `preferred`, item by item
    about the same question; refusals there make it IdkDPO (TOFU, arXiv 2401.06121), other plausible answers AltPO.
    Log-likelihoods are of whole sequences. An item whose preferred answer has no tokens is compared with nothing, which
    is NPO; one without a forgotten answer takes no part.

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

    beta: float = 0.1
    scale: float | None = None
    preferred: str = "alternative"

    def __post_init__(self) -> None:
        """Check the fields at construction."""
        super().__post_init__()
        check_number("beta", self.beta, positive=True)
        if self.scale is not None:
            check_number("scale", self.scale, positive=True)
        check_name("preferred", self.preferred)

    @property
    def on_parts(self) -> tuple[str, ...]:
        """The forgotten answers and the preferred ones."""
        return (self.on, self.preferred)

    @property
    def aligned_parts(self) -> tuple[str, ...]:
        """Both: an answer is preferred to another one to the same question."""
        return self.on_parts

    @property
    def whole_items(self) -> bool:
        """Always: one value per pair of sequences."""
        return True

    def values(
        self, current: Prediction, reference: Prediction, preferred: Prediction, preferred_reference: Prediction
    ) -> Tensor:
        """See `functional.dpo`."""
        ratios = [log_ratio(preferred, preferred_reference), log_ratio(current, reference)]
        check_same_shape(f"items of {self.label}", *ratios)
        return functional.dpo(*ratios, self.beta, self.scale)


@dataclass(frozen=True, repr=False)
class KTO(Loss):
    r"""The undesirable half of Kahneman-Tversky optimisation, after `"KTO" <https://arxiv.org/abs/2402.01306>`_.

    .. math:: 1 - \sigma\Big(\beta\, \Big(z_0 - \log\frac{p(y)}{p_{ref}(y)}\Big)\Big), \qquad
        z_0 = \max\Big(0, \frac1m \sum_j \log\frac{p(y'_j)}{p_{ref}(y'_j)}\Big)

    KTO-style: what is to be forgotten is undesirable, nothing is desirable, and :math:`\lambda_U` is the weight of the
    term. Unlike NPO it saturates on both sides: an item that is far more likely than under the reference hardly pulls.

    Args:
        beta: inverse temperature, 0.1 in the paper.
        point: name of the part that :math:`z_0` is taken from, the paper's has questions with answers of others; it
            carries no gradient, and is of those items that come together, so that the value of a batch in shares
            differs from that of the whole. `None` is :math:`z_0 = 0`.

    Example:
        >>> KTO(point="mismatched").on_parts
        ('forget', 'mismatched')
    """

    name = "kto"
    summary = "makes the forgotten answer undesirable relative to the reference, with saturation"
    paper = "KTO: Model Alignment as Prospect Theoretic Optimization"
    arxiv = "2402.01306"
    needs_reference = True

    beta: float = 0.1
    point: str | None = None

    def __post_init__(self) -> None:
        """Check the fields at construction."""
        super().__post_init__()
        check_number("beta", self.beta, positive=True)
        if self.point is not None:
            check_name("point", self.point)

    @property
    def on_parts(self) -> tuple[str, ...]:
        """The forgotten answers, and the part of the reference point where there is one."""
        return (self.on,) if self.point is None else (self.on, self.point)

    @property
    def whole_items(self) -> bool:
        """Always: one value per sequence."""
        return True

    def values(self, current: Prediction, reference: Prediction, *others: Prediction) -> Tensor:
        """See `functional.kto`."""
        point = 0.0
        if others:
            ratio = log_ratio(*others).detach()
            mask = others[0].mask
            some = torch.ones_like(ratio, dtype=torch.bool) if mask is None else mask.flatten(1).any(1)
            point = ((ratio * some).sum() / some.sum().clamp_min(1)).clamp_min(0)
        return functional.kto(log_ratio(current, reference), self.beta, point)


def log_ratio(current: Prediction, reference: Prediction) -> Tensor:
    """How much more likely each whole item is than under the reference, in nats, `[num_items]`."""
    return functional.sum_tokens(current.log_prob, current.mask) - functional.sum_tokens(
        reference.log_prob, current.mask
    )
