"""A loss that rules out tokens."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gunlearn.core.checks import check_choice, check_token_ids
from gunlearn.losses import functional
from gunlearn.losses.base import Loss
from gunlearn.losses.divergences import MASK_MODES
from gunlearn.losses.prediction import Prediction


class _WhereTargetIsReference:
    """`False` on the class; on an instance, whether its target is the reference."""

    def __get__(self, loss: MaskedVocabulary | None, owner: type) -> bool:
        return loss is not None and loss.target == "reference"


@dataclass(frozen=True, repr=False)
class MaskedVocabulary(Loss):
    r"""Divergence from predictions without some tokens, the mask loss of `"OBLIVIATE" <https://arxiv.org/abs/2505.04416>`_.

    .. math:: KL(P \| Q), \qquad P = sg\big(\mathrm{softmax}(\tilde z)\big), \quad Q = \mathrm{softmax}(z)

    with :math:`\tilde z` the target's logits with the tokens ruled out. Every unmasked position counts, not only those
    of such tokens. OBLIVIATE adds `0.2 * MSEToReference(field="logits")` on retained texts and
    `0.7 * KLToReference()` on world facts.

    The paper sets the probabilities of the tokens to zero; its code multiplies their logits by 0 (`"zero_logit"`: such
    a token stays possible, and one with a negative logit becomes *likelier*) and lets gradients flow into `P`. Here
    `P` is always a constant: with :math:`-\infty` the gradient would be NaN.

    Args:
        token_ids: the tokens, in any order.
        mask_mode: `"ninf"` for a probability of exactly zero, `"zero_logit"` for what the paper's code does.
        target: whose logits to take: the `"current"` model's, as in the paper, or the `"reference"`'s.

    Example:
        >>> loss = MaskedVocabulary((3, 5), target="reference")
        >>> loss.needs_reference, MaskedVocabulary.needs_reference
        (True, False)
    """

    name = "masked_vocabulary"
    summary = "divergence from predictions in which some tokens are ruled out"
    paper = "OBLIVIATE: Robust and Practical Machine Unlearning for Large Language Models"
    arxiv = "2505.04416"
    needs_reference = _WhereTargetIsReference()
    reads = ("logits",)

    token_ids: tuple[int, ...]
    mask_mode: str = "ninf"
    target: str = "current"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_token_ids(self.token_ids)
        check_choice("mask_mode", self.mask_mode, MASK_MODES)
        check_choice("target", self.target, ("current", "reference"))

    def values(self, current: Prediction, reference: Prediction | None = None) -> Tensor:
        target = current if reference is None or self.target == "current" else reference
        return functional.masked_vocabulary(
            current.class_logits(), target.require("logits"), self.token_ids, self.mask_mode
        )
