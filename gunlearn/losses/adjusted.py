"""Losses that move the predicted distribution to one without the token, or to a flat one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gunlearn.core.checks import check_categorical, check_number
from gunlearn.errors import InvalidInputError
from gunlearn.losses import functional
from gunlearn.losses.base import Loss
from gunlearn.losses.prediction import Prediction


@dataclass(frozen=True, repr=False)
class UNDIAL(Loss):
    r"""Self-distillation with adjusted logits, `"UNDIAL" <https://arxiv.org/abs/2402.10052>`_.

    .. math:: -\sum_v q_v \log p_v, \qquad q = \mathrm{softmax}(z_{ref} - \beta\, \mathbb{1}_y)

    The target is what the model said before with the token's own logit lowered. Its minimum is the entropy of `q`.

    Args:
        beta: what is taken off; 10 in open-unlearning's settings (without a retain term, learning rate 1e-4).

    Example:
        >>> UNDIAL(beta=3.0).reads
        ('logits', 'label')
    """

    name = "undial"
    summary = "teaches what the reference says with the forgotten token's logit lowered"
    paper = "UNDIAL: Self-Distillation with Adjusted Logits for Robust Unlearning in Large Language Models"
    arxiv = "2402.10052"
    needs_reference = True

    beta: float = 10.0

    def __post_init__(self) -> None:
        """Check the number at construction."""
        super().__post_init__()
        check_number("beta", self.beta, positive=True)

    @property
    def reads(self) -> tuple[str, ...]:
        """Logits and labels."""
        return ("logits", "label")

    def values(self, current: Prediction, reference: Prediction) -> Tensor:
        """See `functional.undial`."""
        return functional.undial(current.logits, reference.logits, current.label, self.beta)


@dataclass(frozen=True, repr=False, kw_only=True)
class CEU(Loss):
    r"""Cross-entropy unlearning, `"CE-U" <https://arxiv.org/abs/2503.01224>`_; not the method for edges of that name.

    .. math:: -\sum_v q_v \log p_v, \qquad q = sg\big(\mathrm{softmax}(z \text{ with } z_y = -\infty)\big)

    The target is what the model says now, the token ruled out; the gradient by the logits is `p - q`, that of
    :math:`-\log(1 - p_y)`.

    Args:
        skip_first: tokens of each sequence, the first that have a label, that take no part; 1 is open-unlearning's
            setting, after a footnote of the paper (how an answer begins is no fact), 0 the formula. Not of a view of a
            part (`on="forget:target"`), whose first tokens are not the answer's.

    Example:
        >>> CEU(skip_first=1)
        CEU(skip_first=1)
    """

    name = "ceu"
    summary = "teaches the model's own predictions with the forgotten token ruled out"
    paper = "CE-U: Cross Entropy Unlearning"
    arxiv = "2503.01224"

    skip_first: int = 0

    def __post_init__(self) -> None:
        """Check the number at construction."""
        super().__post_init__()
        if isinstance(self.skip_first, bool) or not isinstance(self.skip_first, int) or self.skip_first < 0:
            raise InvalidInputError(f"Expected 'skip_first' to be an integer >= 0 (got {self.skip_first!r})")
        if self.skip_first and ":" in self.on:
            raise InvalidInputError(
                f"Expected 'skip_first' to be 0 on a view, whose first token begins no answer "
                f"(got {self.skip_first} on '{self.on}')"
            )

    @property
    def reads(self) -> tuple[str, ...]:
        """Logits and labels."""
        return ("logits", "label")

    def keep(self, mask: Tensor) -> Tensor:
        """Without the first tokens of each sequence; items that are no sequences stay."""
        return mask if mask.dim() < 2 else mask & (mask.long().cumsum(1) > self.skip_first)

    def values(self, current: Prediction, reference: Prediction | None = None) -> Tensor:
        """See `functional.ceu`."""
        return functional.ceu(current.logits, current.label)


@dataclass(frozen=True, repr=False, kw_only=True)
class IHL(Loss):
    r"""Inverted hinge loss, `"LoKU" <https://arxiv.org/abs/2408.06621>`_.

    .. math:: 1 + p_y - \max_{v \ne y} p_v

    Lowers the token and raises the runner-up, and leaves the rest of the vocabulary alone. Between 0 and 2.

    Example:
        >>> IHL(on="forget:target")
        IHL(on='forget:target')
    """

    name = "ihl"
    summary = "hinge loss that lowers the forgotten token and raises the runner-up"
    paper = "Towards Robust and Parameter-Efficient Knowledge Unlearning for LLMs"
    arxiv = "2408.06621"

    @property
    def reads(self) -> tuple[str, ...]:
        """Logits and labels."""
        return ("logits", "label")

    def values(self, current: Prediction, reference: Prediction | None = None) -> Tensor:
        """See `functional.inverted_hinge`."""
        return functional.inverted_hinge(current.logits, current.label)


@dataclass(frozen=True, repr=False, kw_only=True)
class FlatLogits(Loss):
    r"""Flat logits, the forget loss of `"PDU" <https://arxiv.org/abs/2506.05314>`_.

    .. math:: \big(\max_v z_v - \tfrac1V \sum_v z_v\big)^2

    0 where all tokens are equally likely. PDU holds the retain loss below a bound beside it, with a weight that
    `PrimalDual` adapts.

    Example:
        >>> FlatLogits().reads
        ('logits',)
    """

    name = "flat_logits"
    summary = "squared distance of the largest logit from their mean"
    paper = "Constrained Entropic Unlearning: A Primal-Dual Framework for Large Language Models"
    arxiv = "2506.05314"

    @property
    def reads(self) -> tuple[str, ...]:
        """Logits alone."""
        return ("logits",)

    def values(self, current: Prediction, reference: Prediction | None = None) -> Tensor:
        """See `functional.flat_logits`."""
        check_categorical(current.logits, current.log_prob.shape)
        return functional.flat_logits(current.logits)
