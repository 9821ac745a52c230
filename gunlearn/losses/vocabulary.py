"""Losses about given tokens: rule them out, or say them in place of the forgotten answer."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from gunlearn.core.checks import check_token_ids, check_token_range
from gunlearn.losses import functional
from gunlearn.losses.base import Loss, checked, one_of
from gunlearn.losses.divergences import MASK_MODES
from gunlearn.losses.prediction import Prediction


class _WhereTargetIsReference:
    """`False` on the class; on an instance, whether its target is the reference."""

    def __get__(self, loss: MaskedVocabulary | None, owner: type) -> bool:
        return loss is not None and loss.target == "reference"


@dataclass(frozen=True, repr=False)
class MaskedVocabulary(Loss):
    r"""Divergence from predictions without some tokens, the mask loss of `"OBLIVIATE" <https://arxiv.org/abs/2505.04416>`_.

    See `functional.masked_vocabulary`. Every unmasked position counts, not only those of such tokens. OBLIVIATE adds
    `0.2 * MSEToReference(field="logits")` on retained texts and `0.7 * KLToReference()` on world facts.

    The paper sets the probabilities of the tokens to zero; its code multiplies their logits by 0 (`"zero_logit"`: such
    a token stays possible, and one with a negative logit becomes *likelier*) and lets gradients flow into the target.
    Here the target is always a constant: with :math:`-\infty` the gradient would be NaN.

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
    checks = checked(token_ids=check_token_ids, mask_mode=one_of(*MASK_MODES), target=one_of("current", "reference"))

    token_ids: tuple[int, ...]
    mask_mode: str = "ninf"
    target: str = "current"

    def values(self, current: Prediction, reference: Prediction | None = None) -> Tensor:
        target = current if reference is None or self.target == "current" else reference
        return functional.masked_vocabulary(
            current.class_logits(), target.require("logits"), self.token_ids, self.mask_mode
        )


@dataclass(frozen=True, repr=False)
class JSDToRefusal(Loss):
    r"""Jensen-Shannon divergence from a refusal, the forget loss of `"JensUn" <https://arxiv.org/abs/2509.02820>`_.

    It compares the prediction at each position with the refusal's token (`functional.js_to_label`). Bounded by ln 2,
    with a small gradient where the refusal is very unlikely. JensUn adds `JSDToReference` on the retained data.

    Without `token_ids` the labels of the part are the refusal: its rows are forgotten questions answered by a refusal
    (part `"alternative"`), and no logits are read. With `token_ids` the part is the forgotten data itself, whose
    labelled tokens should become these, repeated as often as needed; so does the authors' code.

    Args:
        token_ids: tokens of the refusal, or `None` for the labels.

    Example:
        >>> JSDToRefusal(), JSDToRefusal((17, 4), on="forget")
        (JSDToRefusal(on='alternative'), JSDToRefusal(token_ids=(17, 4), on='forget'))
    """

    name = "jsd_to_refusal"
    summary = "bounded divergence from a refusal's tokens"
    paper = "Unlearning That Lasts: Utility-Preserving, Robust, and Almost Irreversible Forgetting in LLMs"
    arxiv = "2509.02820"
    checks = checked(token_ids=check_token_ids)

    token_ids: tuple[int, ...] | None = None
    _: KW_ONLY
    on: str = "alternative"

    @property
    def reads(self) -> tuple[str, ...]:
        return ("log_prob",) if self.token_ids is None else ("logits",)

    def values(self, current: Prediction, reference: Prediction | None = None) -> Tensor:
        if self.token_ids is None:
            return functional.js_to_label(current.log_prob)
        logits = current.class_logits()
        check_token_range(self.token_ids, logits)
        if current.log_prob.dim() == 1:
            place = torch.zeros_like(current.log_prob, dtype=torch.long)
        else:
            mask = torch.ones_like(current.log_prob, dtype=torch.bool) if current.mask is None else current.mask
            place = (mask.long().cumsum(1) - 1).clamp_min(0) % len(self.token_ids)
        refusal = torch.tensor(self.token_ids, device=place.device)[place]
        log_prob = functional.full_precision(logits).log_softmax(-1)
        return functional.js_to_label(log_prob.gather(-1, refusal.unsqueeze(-1)).squeeze(-1))
