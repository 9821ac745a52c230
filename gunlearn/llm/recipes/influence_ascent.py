"""IMU for language models: gradient ascent, each token or sequence weighted by its influence (arXiv 2508.01620)."""

from dataclasses import dataclass

from torch import Tensor

from gunlearn.core.checks import check_number
from gunlearn.errors import InvalidInputError
from gunlearn.losses import Loss, influence_weights
from gunlearn.losses.base import POSITIVE, checked, one_of
from gunlearn.losses.functional import nll
from gunlearn.losses.prediction import Prediction


def _share(name: str, value: object) -> None:
    check_number(name, value, positive=True)
    if float(value) > 1:  # type: ignore[arg-type]  # a number
        raise InvalidInputError(f"Expected '{name}' in (0, 1] (got {value})")


@dataclass(frozen=True, repr=False, kw_only=True)
class InfluenceAscent(Loss):
    r"""Weighted gradient ascent :math:`\sum_i w_i \log p_i / \sum_i w_i`, with `influence_weights` of each batch.

    The weights are computed at every step, in closed form, from gradients of the output layer, and are constants: no
    gradient flows through them. They depend on the batch, so use one of at least some tens of tokens (sequences, with
    `per="item"`). Retained rows are not read. With an adapter, or where only attention weights are trained as by the
    authors, weights still go by the output layer.

    Args:
        per: `"token"` weighs each token, `"item"` each sequence.
        top: share of the entries with negative influence that take part, the largest first.
        cap: quantile that weights are cut to.
        damping: added to the mean squared gradients.

    Example:
        >>> from gunlearn.llm import InfluenceAscent, UnlearnTrainer
        >>> UnlearnTrainer(model, InfluenceAscent(), forget_dataset=forget).train()  # doctest: +SKIP
    """

    name = "influence_ascent"
    summary = "raises the negative log-likelihood of forgotten tokens, the most influential ones first"
    paper = "IMU: Influence-guided Machine Unlearning"
    arxiv = "2508.01620"
    bounded_below = False
    level = ("token", "embedding")
    reads = ("log_prob", "logits", "embeddings", "label")
    checks = checked(damping=POSITIVE, per=one_of("token", "item"), top=_share, cap=_share)

    per: str = "token"
    top: float = 1.0
    cap: float = 0.93
    damping: float = 0.01

    def values(self, current: Prediction, reference: Prediction | None = None) -> Tensor:
        hidden, logits, label = (current.require(name).detach() for name in ("embeddings", "logits", "label"))
        weight = influence_weights(hidden, logits, label, current.mask, self.damping, self.per, self.top, self.cap)
        log_prob = -nll(current.log_prob)
        return log_prob * (weight if weight.dim() == log_prob.dim() else weight.unsqueeze(-1))
