"""Losses that rule out words."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gunlearn.core.checks import check_categorical, check_choice, check_token_ids
from gunlearn.losses import functional
from gunlearn.losses.base import Loss
from gunlearn.losses.prediction import Prediction
from gunlearn.losses.token_functional import MASK_MODES

TARGETS = ("current", "reference")


class _WhereTargetIsReference:
    """`False` for the class, for an instance whether its target is the reference."""

    def __get__(self, loss: MaskedVocabulary | None, owner: type) -> bool:
        return loss is not None and loss.target == "reference"


@dataclass(frozen=True, repr=False)
class MaskedVocabulary(Loss):
    r"""Divergence from predictions without some tokens, the mask loss of `"OBLIVIATE" <https://arxiv.org/abs/2505.04416>`_.

    .. math:: KL(P \| Q), \qquad P = sg\big(\mathrm{softmax}(\tilde z)\big), \quad Q = \mathrm{softmax}(z)

    with :math:`\tilde z` the target's logits where the tokens are ruled out; at every place that counts, not only where
    such a token stands. OBLIVIATE adds `0.2 * MSEToReference(field="logits")` on retained texts and
    `0.7 * KLToReference()` on world facts.

    The paper speaks of probabilities set to zero; its code multiplies logits with a mask (`"zero_logit"`: such a token
    stays possible, and one with a negative logit becomes *likelier*) and lets gradients into `P`. Here `P` is always a
    constant: with :math:`-\infty` the gradient would be NaN.

    Args:
        token_ids: the tokens, sorted or not.
        mask_mode: `"ninf"`, exactly zero probability, or `"zero_logit"`, what the paper's code does.
        target: whose logits: the `"current"` model's, as in the paper, or the `"reference"`'s.

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

    token_ids: tuple[int, ...]
    mask_mode: str = "ninf"
    target: str = "current"

    def __post_init__(self) -> None:
        """Check the fields at construction."""
        super().__post_init__()
        check_token_ids(self.token_ids)
        check_choice("mask_mode", self.mask_mode, MASK_MODES)
        check_choice("target", self.target, TARGETS)

    @property
    def reads(self) -> tuple[str, ...]:
        """Logits alone."""
        return ("logits",)

    def values(self, current: Prediction, reference: Prediction | None = None) -> Tensor:
        """See `functional.masked_vocabulary`."""
        check_categorical(current.logits, current.log_prob.shape)
        target = (reference if self.target == "reference" else current).logits
        return functional.masked_vocabulary(current.logits, target, self.token_ids, self.mask_mode)
