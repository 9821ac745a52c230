"""Pure tensor functions behind the loss classes: one value per item, no masks, no reduction.

Inputs of lower precision than float32 are computed, and returned, in float32: a log-softmax over a vocabulary or a sum
over many items has no digits left in half precision. Gradients come back in the input's own type.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gunlearn.core.checks import check_choice, check_number, check_same_shape
from gunlearn.errors import InvalidInputError
from gunlearn.losses.reduction import full_precision, reduce_values
from gunlearn.losses.token_functional import (
    ceu,
    control_vector,
    dpo,
    flat_logits,
    inverted_hinge,
    js_to_label,
    js_to_reference,
    kto,
    masked_vocabulary,
    mean_tokens,
    sim_npo,
    undial,
    weighted_ascent,
)

__all__ = [
    "ceu",
    "control_vector",
    "distillation",
    "dpo",
    "flat_logits",
    "inverted_hinge",
    "js_divergence",
    "js_to_label",
    "js_to_reference",
    "kl_divergence",
    "kto",
    "masked_vocabulary",
    "mean_tokens",
    "mse",
    "nll",
    "npo",
    "reduce_values",
    "sigmoid_nll",
    "sim_npo",
    "sum_tokens",
    "topological_entropy",
    "undial",
    "weighted_ascent",
]

DIRECTIONS = ("forward", "reverse")


def nll(log_prob: Tensor) -> Tensor:
    r"""Negative log-likelihood :math:`-\log p`.

    Args:
        log_prob: log-likelihood in nats, `[num_items]` or `[num_items, num_tokens]`.

    Returns:
        Values of the shape of `log_prob`.
    """
    return -full_precision(log_prob)


def npo(log_prob: Tensor, reference_log_prob: Tensor, beta: float, ratio_offset: float = 0.0) -> Tensor:
    r"""Negative preference optimisation, `arXiv:2404.05868 <https://arxiv.org/abs/2404.05868>`_.

    .. math:: \frac{2}{\beta} \log\Big(1 + \big(p / p_{ref} + c\big)^\beta\Big)

    Computed in log space as `(2 / beta) * softplus(beta * log_ratio)`: finite wherever the log-ratio is, with a
    derivative between 0 and 2.

    Args:
        log_prob: log-likelihood under the current model, `[num_items]` or `[num_items, num_tokens]`.
        reference_log_prob: the same under the model before unlearning, same shape.
        beta: inverse temperature, positive; its limit 0 is gradient ascent (up to a constant).
        ratio_offset: the constant :math:`c \ge 0` that the official code of INPO (arXiv 2510.19479) adds to the ratio
            (1e-4); 0 is the paper's loss.

    Returns:
        Values of the shape of `log_prob`; `2 ln 2 / beta` where the models agree and `c = 0`.

    Raises:
        InvalidInputError: shapes differ, `beta` is not positive or `ratio_offset` is negative.
    """
    check_number("beta", beta, positive=True)
    check_number("ratio_offset", ratio_offset, minimum=0.0)
    check_same_shape("log_prob", log_prob, reference_log_prob)
    log_ratio = full_precision(log_prob) - full_precision(reference_log_prob)
    if ratio_offset > 0:
        log_ratio = torch.logaddexp(log_ratio, torch.full_like(log_ratio, math.log(ratio_offset)))
    return 2 / beta * _softplus(beta * log_ratio)


def sigmoid_nll(log_prob: Tensor) -> Tensor:
    r"""Binary cross-entropy *with logits* and target 1, applied to a probability: :math:`\log(1 + e^{-p})`.

    The official code of INPO (`arXiv:2510.19479 <https://arxiv.org/abs/2510.19479>`_) passes probabilities where logits
    are due, so the sigmoid acts twice and the value lies between 0.313 (p = 1) and 0.693 (p = 0). Kept to repeat that
    code; use `nll` for anything else.

    Args:
        log_prob: log-likelihood in nats, `[num_items]` or `[num_items, num_tokens]`.

    Returns:
        Values of the shape of `log_prob`.
    """
    return _softplus(-full_precision(log_prob).exp())


def kl_divergence(
    logits: Tensor, reference_logits: Tensor, direction: str = "forward", bernoulli: bool | None = None
) -> Tensor:
    r"""Kullback-Leibler divergence between the two models' predictions, in nats.

    .. math:: \text{forward: } \sum_c q_c \log\frac{q_c}{p_c}, \qquad \text{reverse: } \sum_c p_c \log\frac{p_c}{q_c}

    with :math:`p` the current and :math:`q` the reference distribution: forward is KL(reference || current), which asks
    the model to cover all that the reference says; reverse is KL(current || reference).

    Args:
        logits: `[num_items]` (Bernoulli), or categorical `[num_items, num_classes]`, `[num_items, num_tokens,
            num_classes]`.
        reference_logits: the same under the reference, same shape.
        direction: `"forward"` or `"reverse"`.
        bernoulli: read each logit as a distribution of its own (multi-label `[num_items, num_labels]`); by default this
            is so for one-dimensional logits alone.

    Returns:
        `[num_items]` or `[num_items, num_tokens]`: the shape of `logits`, less the classes if categorical.

    Raises:
        InvalidInputError: shapes differ, the direction is unknown, or there are fewer than two classes.
    """
    check_choice("direction", direction, DIRECTIONS)
    check_same_shape("logits", logits, reference_logits)
    logits, reference_logits = full_precision(logits), full_precision(reference_logits)
    if bernoulli is None:
        bernoulli = logits.dim() == 1
    if bernoulli:
        log_p, log_q = (torch.stack((F.logsigmoid(x), F.logsigmoid(-x)), -1) for x in (logits, reference_logits))
    elif logits.dim() < 2 or logits.size(-1) < 2:
        raise InvalidInputError(
            f"Expected 'logits' with at least two classes, or [num_items] for one (got {tuple(logits.shape)})"
        )
    else:
        log_p, log_q = logits.log_softmax(-1), reference_logits.log_softmax(-1)
    if direction == "forward":
        log_p, log_q = log_q, log_p
    prob = log_p.exp()
    # 0 log 0 = 0: a class that both exclude (logit -inf) would give -inf - -inf.
    return (prob * torch.where(prob == 0, 0, log_p - log_q)).sum(-1)


def distillation(
    logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, bernoulli: bool | None = None
) -> Tensor:
    r"""Divergence from a teacher, both softened, `arXiv:1503.02531 <https://arxiv.org/abs/1503.02531>`_.

    .. math:: T^2 \, KL\big(\mathrm{softmax}(z_{teacher} / T) \,\|\, \mathrm{softmax}(z / T)\big)

    The factor keeps gradients of one size whatever the temperature.

    Args:
        logits: of the student, as for `kl_divergence`.
        teacher_logits: the same of the teacher, same shape.
        temperature: positive; 1 is `kl_divergence`.
        bernoulli: see `kl_divergence`.

    Returns:
        See `kl_divergence`.

    Raises:
        InvalidInputError: shapes differ, the temperature is not positive, or there are fewer than two classes.
    """
    check_number("temperature", temperature, positive=True)
    softened = (full_precision(z) / temperature for z in (logits, teacher_logits))
    return temperature**2 * kl_divergence(*softened, bernoulli=bernoulli)


def topological_entropy(embeddings: Tensor, reference_embeddings: Tensor, item_dims: int = 1) -> Tensor:
    r"""Cross-entropy of embeddings read as distributions, L_TE of `INPO <https://arxiv.org/abs/2510.19479>`_.

    .. math:: -\sum_d \mathrm{softmax}(z^{ref})_d \, \log \mathrm{softmax}(z)_d

    averaged over the dimensions between items and features (the two end points of an edge). Its minimum, the entropy of
    the reference, is not 0; its gradient vanishes where the two embeddings agree up to a constant.

    Args:
        embeddings: `[num_items, ..., dim]`.
        reference_embeddings: the same under the reference, same shape.
        item_dims: number of leading dimensions that the result keeps (2 for `[num_items, num_tokens, dim]`).

    Returns:
        `[num_items]`, or the first `item_dims` sizes of `embeddings`.

    Raises:
        InvalidInputError: shapes differ or there is no feature dimension.
    """
    check_same_shape("embeddings", embeddings, reference_embeddings)
    if embeddings.dim() <= item_dims:
        raise InvalidInputError(f"Expected 'embeddings' [num_items, ..., dim] (got {tuple(embeddings.shape)})")
    target = full_precision(reference_embeddings).softmax(-1)
    return _mean_rest(-(target * full_precision(embeddings).log_softmax(-1)).sum(-1), item_dims)


def mse(values: Tensor, reference: Tensor, item_dims: int = 1) -> Tensor:
    """Squared difference, averaged over all dimensions but the first `item_dims`.

    Args:
        values: `[num_items, ...]`.
        reference: the same under the reference, same shape.
        item_dims: number of leading dimensions that the result keeps (2 for `[num_items, num_tokens, dim]`).

    Returns:
        `[num_items]`, or the first `item_dims` sizes of `values`.

    Raises:
        InvalidInputError: shapes differ.
    """
    check_same_shape("values", values, reference)
    return _mean_rest((full_precision(values) - full_precision(reference)).square(), item_dims)


def js_divergence(prob: Tensor, reference_prob: Tensor) -> Tensor:
    r"""Jensen-Shannon divergence between two Bernoulli distributions, in nats: 0 where equal, at most :math:`\ln 2`.

    .. math:: \tfrac12 KL(p \| m) + \tfrac12 KL(q \| m), \qquad m = \tfrac12 (p + q)

    A metric rather than a loss: the derivative is infinite at probabilities of exactly 0 and 1.

    Args:
        prob: probabilities `[num_items]` (or any shape); rounding beyond [0, 1] is cut off.
        reference_prob: the same under the reference, same shape.

    Returns:
        Values of the shape of `prob`.

    Raises:
        InvalidInputError: shapes differ.
    """
    check_same_shape("prob", prob, reference_prob)
    p, q = (full_precision(x).clamp(0, 1) for x in (prob, reference_prob))
    # Both sides of one coin are added up within each direction, so that equal inputs give exact zeros.
    total = torch.zeros_like(p + q)
    for a, b in ((p, q), (1 - p, 1 - q)):
        middle = ((a + b) / 2).clamp_min(torch.finfo(total.dtype).tiny)
        total = total + torch.xlogy(a, a / middle) + torch.xlogy(b, b / middle)
    return (total / 2).clamp(0, math.log(2))


def categorical_js_divergence(prob: Tensor, reference_prob: Tensor) -> Tensor:
    r"""Jensen-Shannon divergence between two categorical distributions, in nats: `js_divergence` for more classes.

    Args:
        prob: probabilities of the classes `[..., num_classes]`.
        reference_prob: the same under the reference, same shape.

    Returns:
        `[...]`, one value per item.

    Raises:
        InvalidInputError: shapes differ.
    """
    check_same_shape("prob", prob, reference_prob)
    p, q = (full_precision(x).clamp(0, 1) for x in (prob, reference_prob))
    middle = ((p + q) / 2).clamp_min(torch.finfo(p.dtype).tiny)
    total = (torch.xlogy(p, p / middle) + torch.xlogy(q, q / middle)).sum(-1)
    return (total / 2).clamp(0, math.log(2))


def sum_tokens(log_prob: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Log-likelihood of a whole item, :math:`\sum_t \log p(y_t | y_{<t})`, over the tokens where `mask` is true.

    Args:
        log_prob: `[num_items]` (handed back as it is) or `[num_items, num_tokens]`.
        mask: boolean, same shape.

    Returns:
        `[num_items]`.
    """
    log_prob = full_precision(log_prob)
    if log_prob.dim() == 1:
        return log_prob
    return (log_prob if mask is None else torch.where(mask, log_prob, 0)).flatten(1).sum(1)


def _softplus(x: Tensor) -> Tensor:
    # F.softplus turns linear beyond 20 and loses up to 2e-9 there; this form is exact in both tails.
    return -F.logsigmoid(-x)


def _mean_rest(values: Tensor, item_dims: int) -> Tensor:
    return values if values.dim() <= item_dims else values.flatten(item_dims).mean(-1)
