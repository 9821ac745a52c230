"""Losses of the likelihood alone, which learn or unlearn each token by itself."""

from dataclasses import dataclass

from torch import Tensor

from gunlearn.losses import functional
from gunlearn.losses.base import NOT_NEGATIVE, POSITIVE, Loss, checked
from gunlearn.losses.prediction import Prediction


@dataclass(frozen=True, repr=False, kw_only=True)
class NLL(Loss):
    r"""Negative log-likelihood :math:`-\log p`, the loss of ordinary training, which keeps the retained data.

    On nodes it is the cross-entropy, on edges the binary cross-entropy of each edge's own label (the task adds
    negatives), on token sequences the mean over all tokens.
    """

    name = "nll"
    summary = "negative log-likelihood of the retained data"

    on: str = "retain"

    def values(self, current: Prediction, reference: Prediction | None = None) -> Tensor:
        return functional.nll(current.log_prob)


@dataclass(frozen=True, repr=False, kw_only=True)
class GradientAscent(Loss):
    r"""Gradient ascent on the loss of training, `"Knowledge Unlearning" <https://arxiv.org/abs/2210.01504>`_.

    Its value :math:`+\log p` has no minimum, so that many steps ruin the model. Use few, or `NPO`.
    """

    name = "gradient_ascent"
    summary = "raises the negative log-likelihood of the forgotten data, without bound"
    paper = "Knowledge Unlearning for Mitigating Privacy Risks in Language Models"
    arxiv = "2210.01504"
    bounded_below = False

    def values(self, current: Prediction, reference: Prediction | None = None) -> Tensor:
        return -functional.nll(current.log_prob)


@dataclass(frozen=True, repr=False)
class BoundedAscent(Loss):
    r"""Gradient ascent that stops at a bound: :math:`-\min(-\log p, b)`, so an item that is forgotten has no gradient.

    Along curves between unlearned models it keeps out models that remember (`gunlearn.connectivity`).

    Args:
        bound: :math:`b`, in nats.

    Example:
        >>> import torch
        >>> BoundedAscent(bound=8.0)(Prediction(log_prob=torch.tensor([-2.0, -20.0])))
        tensor(-5.)
    """

    name = "bounded_ascent"
    summary = "raises the negative log-likelihood of the forgotten data, up to a bound"
    checks = checked(bound=POSITIVE)

    bound: float = 8.0

    def values(self, current: Prediction, reference: Prediction | None = None) -> Tensor:
        return -functional.nll(current.log_prob).clamp(max=self.bound)


@dataclass(frozen=True, repr=False, kw_only=True)
class SigmoidNLL(Loss):
    """INPO's retain loss for its paper mode: its code applies one sigmoid too many, see `functional.sigmoid_nll`."""

    name = "sigmoid_nll"
    summary = "cross-entropy with logits applied to a probability, as INPO's code does"
    paper = "Graph Unlearning Meets Influence-aware Negative Preference Optimization"
    arxiv = "2510.19479"

    on: str = "retain_edges"

    def values(self, current: Prediction, reference: Prediction | None = None) -> Tensor:
        return functional.sigmoid_nll(current.log_prob)


@dataclass(frozen=True, repr=False)
class WGA(Loss):
    r"""Weighted gradient ascent, `"Rethinking LLM Unlearning Objectives" <https://arxiv.org/abs/2502.19301>`_.

    The gradient is that of `GradientAscent` times :math:`p^\beta`, so that forgotten tokens are left alone:
    `functional.weighted_ascent`.

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
    checks = checked(beta=POSITIVE)

    beta: float = 1.0

    def values(self, current: Prediction, reference: Prediction | None = None) -> Tensor:
        return functional.weighted_ascent(current.log_prob, self.beta)


@dataclass(frozen=True, repr=False)
class SatImp(Loss):
    """Ascent by saturation and importance, `"Exploring Criteria of Loss Reweighting" <https://arxiv.org/abs/2505.11953>`_.

    Weighs tokens most that are neither forgotten nor certain: `functional.weighted_ascent`.

    Args:
        beta1: exponent of saturation, 5 in open-unlearning (weights 0.1 for this term and 1 for the retained data).
        beta2: exponent of importance, 1 there.
    """

    name = "sat_imp"
    summary = "gradient ascent, most on tokens that are neither forgotten nor certain"
    paper = "Exploring Criteria of Loss Reweighting to Enhance LLM Unlearning"
    arxiv = "2505.11953"
    checks = checked(beta1=POSITIVE, beta2=NOT_NEGATIVE)

    beta1: float = 5.0
    beta2: float = 1.0

    def values(self, current: Prediction, reference: Prediction | None = None) -> Tensor:
        return functional.weighted_ascent(current.log_prob, self.beta1, self.beta2)
