"""Losses of the likelihood alone: learn it, or unlearn it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gunlearn.losses import functional
from gunlearn.losses.base import Loss
from gunlearn.losses.prediction import Prediction


@dataclass(frozen=True, repr=False, kw_only=True)
class NLL(Loss):
    r"""Negative log-likelihood, the loss of ordinary training, which keeps the retained data.

    .. math:: -\log p

    On nodes it is the cross-entropy, on edges the binary cross-entropy of each edge's own label (the task adds
    negatives), on token sequences the mean over all tokens.

    Example:
        >>> NLL()
        NLL(on='retain')
    """

    name = "nll"
    summary = "negative log-likelihood of the retained data"

    on: str = "retain"

    def values(self, current: Prediction, reference: Prediction | None = None) -> Tensor:
        return functional.nll(current.log_prob)


@dataclass(frozen=True, repr=False, kw_only=True)
class GradientAscent(Loss):
    r"""Gradient ascent on the loss of training, `"Knowledge Unlearning" <https://arxiv.org/abs/2210.01504>`_.

    .. math:: +\log p

    It has no minimum, so that many steps ruin the model. Use few, or `NPO`.

    Example:
        >>> GradientAscent().bounded_below
        False
    """

    name = "gradient_ascent"
    summary = "raises the negative log-likelihood of the forgotten data, without bound"
    paper = "Knowledge Unlearning for Mitigating Privacy Risks in Language Models"
    arxiv = "2210.01504"
    bounded_below = False

    def values(self, current: Prediction, reference: Prediction | None = None) -> Tensor:
        return -functional.nll(current.log_prob)


@dataclass(frozen=True, repr=False, kw_only=True)
class SigmoidNLL(Loss):
    r"""INPO's retain loss as in its official code, which applies one sigmoid too many; for that paper's mode alone.

    .. math:: \log(1 + e^{-p}) \in [0.313, 0.693]

    Example:
        >>> SigmoidNLL()
        SigmoidNLL(on='retain_edges')
    """

    name = "sigmoid_nll"
    summary = "cross-entropy with logits applied to a probability, as INPO's code does"
    paper = "Graph Unlearning Meets Influence-aware Negative Preference Optimization"
    arxiv = "2510.19479"

    on: str = "retain_edges"

    def values(self, current: Prediction, reference: Prediction | None = None) -> Tensor:
        return functional.sigmoid_nll(current.log_prob)
