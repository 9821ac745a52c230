"""Bounded losses that teach a refusal or keep a model close to the reference."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from gunlearn.core.checks import check_token_ids, check_token_range
from gunlearn.losses import functional
from gunlearn.losses.base import Loss
from gunlearn.losses.prediction import Prediction


@dataclass(frozen=True, repr=False)
class JSDToRefusal(Loss):
    r"""Jensen-Shannon divergence from a refusal, the forget loss of `"JensUn" <https://arxiv.org/abs/2509.02820>`_.

    .. math:: JSD(p_t, \mathbb{1}_{r_t}) \le \ln 2

    with :math:`r_t` the refusal's token at each position. Bounded, with a small gradient where the refusal is very
    unlikely. JensUn adds `JSDToReference` on the retained data.

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

    token_ids: tuple[int, ...] | None = None
    _: KW_ONLY
    on: str = "alternative"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.token_ids is not None:
            check_token_ids(self.token_ids)

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
    reads = ("logits",)

    on: str = "retain"

    def values(self, current: Prediction, reference: Prediction) -> Tensor:
        return functional.js_to_reference(current.class_logits(), reference.require("logits"))
