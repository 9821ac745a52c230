"""Pure tensor functions behind the losses that language models brought: one value per item or token, no reduction.

Part of `gunlearn.losses.functional`. Precision is that module's: float32 at least. Where a target or a weight is made
of the current model's own predictions, it is a constant for the gradient, as in the papers.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from gunlearn.core.checks import (
    check_categorical,
    check_choice,
    check_number,
    check_same_shape,
    check_token_ids,
    check_token_range,
)
from gunlearn.errors import InvalidInputError
from gunlearn.losses.reduction import full_precision

MASK_MODES = ("ninf", "zero_logit")


def mean_tokens(log_prob: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Log-likelihood per token, :math:`\frac{1}{|y|} \log p(y)`, over the tokens where `mask` is true.

    Args:
        log_prob: `[num_items]` (handed back as it is) or `[num_items, num_tokens]`.
        mask: boolean, same shape.

    Returns:
        `[num_items]`; 0 for items without a token.
    """
    log_prob = full_precision(log_prob)
    if log_prob.dim() == 1:
        return log_prob
    mask = torch.ones_like(log_prob, dtype=torch.bool) if mask is None else mask
    return torch.where(mask, log_prob, 0).flatten(1).sum(1) / mask.flatten(1).sum(1).clamp_min(1)


def sim_npo(mean_log_prob: Tensor, beta: float, delta: float = 0.0) -> Tensor:
    r"""Simple negative preference optimisation, `arXiv:2410.07163 <https://arxiv.org/abs/2410.07163>`_.

    .. math:: -\frac{2}{\beta} \log\sigma\Big(\beta \big(-\tfrac{1}{|y|} \log p(y) - \delta\big)\Big)

    Args:
        mean_log_prob: log-likelihood per token of each item, `[num_items]`, see `mean_tokens`.
        beta: inverse temperature, positive.
        delta: the loss per token from which on an item pulls less; the paper's :math:`\gamma` is
            :math:`\beta \delta`.

    Returns:
        Values of the shape of `mean_log_prob`.

    Raises:
        InvalidInputError: `beta` is not positive or `delta` not finite.
    """
    check_number("beta", beta, positive=True)
    check_number("delta", delta)
    return -2 / beta * F.logsigmoid(-beta * (full_precision(mean_log_prob) + delta))


def dpo(preferred_log_ratio: Tensor, rejected_log_ratio: Tensor, beta: float, scale: float | None = None) -> Tensor:
    r"""Direct preference optimisation, equation 7 of `arXiv:2305.18290 <https://arxiv.org/abs/2305.18290>`_.

    .. math:: -\log\sigma\big(\beta (r_w - r_l)\big), \qquad r = \log p(y) - \log p_{ref}(y)

    Args:
        preferred_log_ratio: :math:`r_w` of whole items, `[num_items]`.
        rejected_log_ratio: :math:`r_l`, same shape.
        beta: inverse temperature, positive.
        scale: multiplies the value by `scale / beta`; `None` leaves it.

    Returns:
        `[num_items]`.

    Raises:
        InvalidInputError: shapes differ, or a number is not positive.
    """
    check_number("beta", beta, positive=True)
    check_same_shape("log-ratio", preferred_log_ratio, rejected_log_ratio)
    if scale is not None:
        check_number("scale", scale, positive=True)
    gap = full_precision(preferred_log_ratio) - full_precision(rejected_log_ratio)
    return -(1 if scale is None else scale / beta) * F.logsigmoid(beta * gap)


def kto(log_ratio: Tensor, beta: float, point: Tensor | float = 0.0) -> Tensor:
    r"""The undesirable half of KTO, `arXiv:2402.01306 <https://arxiv.org/abs/2402.01306>`_.

    .. math:: 1 - \sigma\big(\beta (z_0 - r)\big), \qquad r = \log p(y) - \log p_{ref}(y)

    Args:
        log_ratio: :math:`r` of whole items, `[num_items]`.
        beta: inverse temperature, positive.
        point: the reference point :math:`z_0`, a number that carries no gradient.

    Returns:
        `[num_items]`, between 0 and 1.

    Raises:
        InvalidInputError: `beta` is not positive.
    """
    check_number("beta", beta, positive=True)
    return torch.sigmoid(beta * (full_precision(log_ratio) - point))


def weighted_ascent(log_prob: Tensor, known: float = 1.0, unknown: float = 0.0) -> Tensor:
    r"""Gradient ascent with a weight that depends on how likely the token is: :math:`sg(p^a (1-p)^b) \log p`.

    Args:
        log_prob: `[num_items]` or `[num_items, num_tokens]`.
        known: the exponent :math:`a \ge 0` of `p`.
        unknown: the exponent :math:`b \ge 0` of `1 - p`.

    Returns:
        Values of the shape of `log_prob`, not below :math:`-1/(e a)`.

    Raises:
        InvalidInputError: a negative exponent.
    """
    check_number("known", known, minimum=0.0)
    check_number("unknown", unknown, minimum=0.0)
    log_prob = full_precision(log_prob)
    fixed = log_prob.detach()
    # exp(a log p) and not p ** a: an exponent of 0 is 1 and keeps its digits where p has none.
    return (known * fixed).exp() * (-torch.expm1(fixed)).clamp_min(0) ** unknown * log_prob


def inverted_hinge(logits: Tensor, label: Tensor) -> Tensor:
    r"""Inverted hinge loss, `arXiv:2408.06621 <https://arxiv.org/abs/2408.06621>`_.

    .. math:: 1 + p_y - \max_{v \ne y} p_v

    Args:
        logits: `[..., num_classes]`.
        label: class indices `[...]`.

    Returns:
        `[...]`, between 0 and 2.

    Raises:
        InvalidInputError: shapes that do not fit.
    """
    check_categorical(logits, label.shape)
    prob = full_precision(logits).softmax(-1)
    index = label.unsqueeze(-1)
    return 1 + prob.gather(-1, index).squeeze(-1) - prob.scatter(-1, index, -1.0).amax(-1)


def undial(logits: Tensor, reference_logits: Tensor, label: Tensor, beta: float) -> Tensor:
    r"""Self-distillation with the token's logit lowered, `arXiv:2402.10052 <https://arxiv.org/abs/2402.10052>`_.

    .. math:: -\sum_v q_v \log p_v, \qquad q = \mathrm{softmax}(z_{ref} - \beta\, \mathbb{1}_y)

    Args:
        logits: `[..., num_classes]`.
        reference_logits: the same under the reference, same shape.
        label: class indices `[...]`.
        beta: how much is taken off the label's logit, positive.

    Returns:
        `[...]`; its minimum is the entropy of `q`, not 0.

    Raises:
        InvalidInputError: shapes that do not fit, or `beta` is not positive.
    """
    check_number("beta", beta, positive=True)
    check_categorical(logits, label.shape)
    check_same_shape("logits", logits, reference_logits)
    z = full_precision(reference_logits)
    index = label.unsqueeze(-1)
    return _cross_entropy(z.scatter_add(-1, index, z.new_full(index.shape, -beta)).softmax(-1), logits)


def ceu(logits: Tensor, label: Tensor) -> Tensor:
    r"""Cross-entropy with own predictions less the label, `arXiv:2503.01224 <https://arxiv.org/abs/2503.01224>`_.

    .. math:: -\sum_v q_v \log p_v, \qquad q = sg\big(\mathrm{softmax}(z \text{ with } z_y = -\infty)\big)

    Its gradient, `p - q` by the logits, is that of :math:`-\log(1 - p_y)`.

    Args:
        logits: `[..., num_classes]`.
        label: class indices `[...]`.

    Returns:
        `[...]`.

    Raises:
        InvalidInputError: shapes that do not fit.
    """
    check_categorical(logits, label.shape)
    fixed = full_precision(logits.detach()).scatter(-1, label.unsqueeze(-1), -torch.inf)
    return _cross_entropy(fixed.softmax(-1), logits)


def flat_logits(logits: Tensor) -> Tensor:
    r"""How far the largest logit sticks out, `arXiv:2506.05314 <https://arxiv.org/abs/2506.05314>`_.

    .. math:: \big(\max_v z_v - \tfrac1V \sum_v z_v\big)^2

    Args:
        logits: `[..., num_classes]`.

    Returns:
        `[...]`; 0 where all classes are equally likely.

    Raises:
        InvalidInputError: fewer than two classes.
    """
    check_categorical(logits, logits.shape[:-1])
    logits = full_precision(logits)
    return (logits.amax(-1) - logits.mean(-1)).square()


def js_to_label(log_prob: Tensor) -> Tensor:
    r"""Jensen-Shannon divergence between predictions and certainty about one class, of its likelihood alone.

    .. math:: JSD(p, \mathbb{1}_y) = \ln 2 + \tfrac12 \big(p_y \ln p_y - (1 + p_y) \ln(1 + p_y)\big)

    Args:
        log_prob: :math:`\ln p_y`, any shape.

    Returns:
        Values of the shape of `log_prob`, between 0 (certain) and :math:`\ln 2`.
    """
    log_prob = full_precision(log_prob)
    prob = log_prob.exp()
    return 0.5 * (prob * log_prob - (1 + prob) * prob.log1p()) + math.log(2)


def js_to_reference(logits: Tensor, reference_logits: Tensor) -> Tensor:
    r"""Jensen-Shannon divergence between the two models' predictions, in nats, from logits.

    .. math:: \tfrac12 KL(p \| m) + \tfrac12 KL(q \| m), \qquad m = \tfrac12 (p + q)

    Args:
        logits: `[..., num_classes]`.
        reference_logits: the same under the reference, same shape.

    Returns:
        `[...]`, between 0 and :math:`\ln 2`.

    Raises:
        InvalidInputError: shapes differ or there are fewer than two classes.
    """
    check_categorical(logits, logits.shape[:-1])
    check_same_shape("logits", logits, reference_logits)
    log_p, log_q = (full_precision(z).log_softmax(-1) for z in (logits, reference_logits))
    middle = torch.logaddexp(log_p, log_q) - math.log(2)
    return 0.5 * (log_p.exp() * (log_p - middle) + log_q.exp() * (log_q - middle)).sum(-1)


def masked_vocabulary(logits: Tensor, target_logits: Tensor, token_ids: tuple[int, ...], mask_mode: str) -> Tensor:
    r"""Divergence from predictions without some tokens, `arXiv:2505.04416 <https://arxiv.org/abs/2505.04416>`_.

    .. math:: KL(P \| Q), \qquad P = sg\big(\mathrm{softmax}(\tilde z)\big), \quad Q = \mathrm{softmax}(z)

    Args:
        logits: `[..., num_classes]`.
        target_logits: what becomes :math:`\tilde z` once the tokens are ruled out, same shape; a constant.
        token_ids: the tokens, class indices.
        mask_mode: their logits become `"ninf"`, :math:`-\infty`, or `"zero_logit"`, 0.

    Returns:
        `[...]`.

    Raises:
        InvalidInputError: shapes differ, tokens that are not there, no token left, or an unknown mode.
    """
    check_choice("mask_mode", mask_mode, MASK_MODES)
    check_token_ids(token_ids)
    check_categorical(logits, logits.shape[:-1])
    check_same_shape("logits", logits, target_logits)
    check_token_range(token_ids, logits)
    if mask_mode == "ninf" and len(set(token_ids)) == logits.size(-1):
        raise InvalidInputError(f"Expected 'token_ids' that leave a class over (got all {logits.size(-1)})")
    index = torch.tensor(token_ids, device=logits.device)
    fill = -torch.inf if mask_mode == "ninf" else 0.0
    target = full_precision(target_logits.detach()).index_fill(-1, index, fill).softmax(-1)
    return _cross_entropy(target, logits) + torch.xlogy(target, target).sum(-1)


@lru_cache(maxsize=16)
def control_vector(dim: int, seed: int = 0) -> Tensor:
    """A random direction with positive entries and unit norm, RMU's `u`: one seed, one vector, on any machine.

    Args:
        dim: number of features.
        seed: of a generator of its own.

    Returns:
        `[dim]` in float64; not to be changed.
    """
    u = torch.rand(dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return u / u.norm()


def _cross_entropy(target: Tensor, logits: Tensor) -> Tensor:
    log_prob = full_precision(logits).log_softmax(-1)
    return -(target * torch.where(target == 0, 0, log_prob)).sum(-1)  # 0 log 0 = 0
