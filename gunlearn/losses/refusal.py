"""Losses that teach a refusal or hold a model in place, and stay bounded."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from gunlearn.core.checks import check_categorical, check_token_ids, check_token_range
from gunlearn.losses import functional
from gunlearn.losses.base import Loss
from gunlearn.losses.prediction import Prediction


@dataclass(frozen=True, repr=False)
class JSDToRefusal(Loss):
    r"""Jensen-Shannon divergence from a refusal, the forget loss of `"JensUn" <https://arxiv.org/abs/2509.02820>`_.

    .. math:: JSD(p_t, \mathbb{1}_{r_t}) \le \ln 2

    with :math:`r_t` the refusal's token at each place. Bounded, and flat where the refusal is most unlikely; JensUn
    adds `JSDToReference` on the retained data.

    Without `token_ids` the part's own labels are the refusal: rows hold a forgotten question and a refusal as its
    answer (part `"alternative"`), and no logits are read. With `token_ids` the part is the forgotten data itself: its
    labelled tokens are asked to be these, over and over, as in the authors' code.

    Args:
        token_ids: the refusal's tokens, or `None` for the labels.

    Example:
        >>> JSDToRefusal(), JSDToRefusal((17, 4), on="forget")
        (JSDToRefusal(on='alternative'), JSDToRefusal(token_ids=(17, 4), on='forget'))
    """

    name = "jsd_to_refusal"
    summary = "bounded divergence from a refusal's tokens"
    paper = "Unlearning That Lasts: Utility-Preserving, Robust, and Almost Irreversible Forgetting in LLMs"
    arxiv = "2509.02820"

    token_ids: tuple[int, ...] | None = None
    _: KW_ONLY
    on: str = "alternative"

    def __post_init__(self) -> None:
        """Check the tokens at construction."""
        super().__post_init__()
        if self.token_ids is not None:
            check_token_ids(self.token_ids)

    @property
    def reads(self) -> tuple[str, ...]:
        """Log-likelihoods, or logits where the tokens are given."""
        return ("log_prob",) if self.token_ids is None else ("logits",)

    def values(self, current: Prediction, reference: Prediction | None = None) -> Tensor:
        """See `functional.js_to_label`."""
        if self.token_ids is None:
            return functional.js_to_label(current.log_prob)
        check_categorical(current.logits, current.log_prob.shape)
        check_token_range(self.token_ids, current.logits)
        if current.log_prob.dim() == 1:
            place = torch.zeros_like(current.log_prob, dtype=torch.long)
        else:
            mask = torch.ones_like(current.log_prob, dtype=torch.bool) if current.mask is None else current.mask
            place = (mask.long().cumsum(1) - 1).clamp_min(0) % len(self.token_ids)
        refusal = torch.tensor(self.token_ids, device=place.device)[place]
        log_prob = functional.full_precision(current.logits).log_softmax(-1)
        return functional.js_to_label(log_prob.gather(-1, refusal.unsqueeze(-1)).squeeze(-1))


@dataclass(frozen=True, repr=False, kw_only=True)
class JSDToReference(Loss):
    r"""Jensen-Shannon divergence from the reference, the retain loss of `"JensUn" <https://arxiv.org/abs/2509.02820>`_.

    .. math:: JSD(p, p_{ref}) \le \ln 2

    Example:
        >>> JSDToRefusal() + JSDToReference()
        JSDToRefusal(on='alternative') + 1.0 * JSDToReference(on='retain')
    """

    name = "jsd_to_reference"
    summary = "bounded divergence of the predicted distribution from the reference's"
    paper = "Unlearning That Lasts: Utility-Preserving, Robust, and Almost Irreversible Forgetting in LLMs"
    arxiv = "2509.02820"
    needs_reference = True

    on: str = "retain"

    @property
    def reads(self) -> tuple[str, ...]:
        """Logits alone."""
        return ("logits",)

    def values(self, current: Prediction, reference: Prediction) -> Tensor:
        """See `functional.js_to_reference`."""
        check_categorical(current.logits, current.log_prob.shape)
        return functional.js_to_reference(current.logits, reference.logits)
