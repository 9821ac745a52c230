"""Pure tensor functions that compare two distributions, part of `gunlearn.losses.functional`: in float32 at least."""

import math

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

DIRECTIONS = ("forward", "reverse")
MASK_MODES = ("ninf", "zero_logit")


def cross_entropy(target: Tensor, logits: Tensor) -> Tensor:
    """Cross-entropy of a target distribution with a model's predictions, `[...]`; classes of target 0 count 0."""
    log_prob = full_precision(logits).log_softmax(-1)
    return -(target * torch.where(target == 0, 0, log_prob)).sum(-1)  # 0 log 0 = 0


def kl_divergence(
    logits: Tensor, reference_logits: Tensor, direction: str = "forward", bernoulli: bool | None = None
) -> Tensor:
    r"""Kullback-Leibler divergence between the two models' predictions, in nats.

    .. math:: \text{forward: } \sum_c q_c \log\frac{q_c}{p_c}, \qquad \text{reverse: } \sum_c p_c \log\frac{p_c}{q_c}

    with :math:`p` the current and :math:`q` the reference distribution. The result has the shape of `logits`, without
    the classes if categorical.

    Args:
        logits: `[num_items]` (Bernoulli), or categorical `[num_items, num_classes]`,
            `[num_items, num_tokens, num_classes]`.
        reference_logits: the same under the reference, same shape.
        direction: `"forward"` or `"reverse"`.
        bernoulli: read each logit as a distribution of its own (multi-label `[num_items, num_labels]`); by default only
            one-dimensional logits are read so.

    Raises:
        InvalidInputError: shapes differ, the direction is unknown, or there are fewer than two classes.
    """
    check_choice("direction", direction, DIRECTIONS)
    check_same_shape("logits", logits, reference_logits)
    logits, reference_logits = full_precision(logits), full_precision(reference_logits)
    if bernoulli is None:
        bernoulli = logits.dim() == 1
    if direction == "reverse":
        logits, reference_logits = reference_logits, logits
    if bernoulli:
        yes, no = ((F.logsigmoid(s * logits), F.logsigmoid(s * reference_logits)) for s in (1, -1))
        return _kl_terms(*yes) + _kl_terms(*no)
    if logits.dim() < 2 or logits.size(-1) < 2:
        raise InvalidInputError(
            f"Expected 'logits' with at least two classes, or [num_items] for one (got {tuple(logits.shape)})"
        )
    return _kl_terms(logits.log_softmax(-1), reference_logits.log_softmax(-1)).sum(-1)


def _kl_terms(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return `q (log q - log p)`, of each outcome."""
    prob = log_q.exp()
    # 0 log 0 = 0; a class of probability 0 under both models (logit -inf) would give -inf - -inf.
    return prob * torch.where(prob == 0, 0, log_q - log_p)


def gaussian_kl(mean: Tensor, reference_mean: Tensor) -> Tensor:
    r"""Kullback-Leibler divergence of normal distributions of variance 1, the same both ways, `[num_items]` in nats.

    .. math:: \tfrac12 \| \mu - \mu_{ref} \|^2

    Both are means `[num_items, dim]` of the same shape, else `InvalidInputError`.
    """
    check_same_shape("means", mean, reference_mean)
    return (full_precision(mean) - full_precision(reference_mean)).square().flatten(1).sum(1) / 2


def gaussian_js_divergence(mean: Tensor, reference_mean: Tensor) -> Tensor:
    r"""Jensen-Shannon divergence of normal distributions of variance 1, `[num_items]` in nats, at most :math:`\ln 2`.

    .. math:: \ln 2 - E_{x \sim N(0, 1)} \mathrm{softplus}\big(\delta x - \delta^2 / 2\big), \qquad
        \delta = \| \mu - \mu_{ref} \|

    by the trapezoidal rule. Arguments are those of `gaussian_kl`.
    """
    delta = (2 * gaussian_kl(mean, reference_mean).double()).sqrt().view(-1, 1)
    x = torch.linspace(-9, 9, 721, dtype=torch.double, device=delta.device)
    weight = (-x.square() / 2).exp()
    mixed = F.softplus(delta * x - delta.square() / 2) @ (weight / weight.sum())
    return (math.log(2) - mixed).clamp(0, math.log(2))


def distillation(
    logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, bernoulli: bool | None = None
) -> Tensor:
    r"""Divergence from a teacher, both softened, `arXiv:1503.02531 <https://arxiv.org/abs/1503.02531>`_.

    .. math:: T^2 \, KL\big(\mathrm{softmax}(z_{teacher} / T) \,\|\, \mathrm{softmax}(z / T)\big)

    The factor keeps the size of gradients independent of the temperature, which must be positive; 1 is `kl_divergence`.
    Shapes, result, `bernoulli` and errors are those of `kl_divergence`.
    """
    check_number("temperature", temperature, positive=True)
    student, teacher = (full_precision(z) / temperature for z in (logits, teacher_logits))
    return temperature**2 * kl_divergence(student, teacher, bernoulli=bernoulli)


def js_divergence(prob: Tensor, reference_prob: Tensor) -> Tensor:
    r"""Jensen-Shannon divergence between two Bernoulli distributions, in nats: 0 where equal, at most :math:`\ln 2`.

    .. math:: \tfrac12 KL(p \| m) + \tfrac12 KL(q \| m), \qquad m = \tfrac12 (p + q)

    A metric, not a loss: the derivative is infinite at probabilities of exactly 0 and 1. Both arguments are
    probabilities of the same shape (else `InvalidInputError`), `[num_items]` or any other; they are clamped to [0, 1].
    """
    check_same_shape("prob", prob, reference_prob)
    p, q = (full_precision(x).clamp(0, 1) for x in (prob, reference_prob))
    # Added up outcome by outcome, so that equal inputs give exact zeros.
    total = torch.zeros_like(p + q)
    for a, b in ((p, q), (1 - p, 1 - q)):
        middle = ((a + b) / 2).clamp_min(torch.finfo(total.dtype).tiny)
        total = total + torch.xlogy(a, a / middle) + torch.xlogy(b, b / middle)
    return (total / 2).clamp(0, math.log(2))


def categorical_js_divergence(prob: Tensor, reference_prob: Tensor) -> Tensor:
    """Jensen-Shannon divergence of two categorical distributions, `[...]` in nats: `js_divergence` for more classes.

    Both arguments are probabilities `[..., num_classes]` of the same shape, else `InvalidInputError`.
    """
    check_same_shape("prob", prob, reference_prob)
    p, q = (full_precision(x).clamp(0, 1) for x in (prob, reference_prob))
    middle = ((p + q) / 2).clamp_min(torch.finfo(p.dtype).tiny)
    total = (torch.xlogy(p, p / middle) + torch.xlogy(q, q / middle)).sum(-1)
    return (total / 2).clamp(0, math.log(2))


def js_to_label(log_prob: Tensor) -> Tensor:
    r"""Jensen-Shannon divergence between predictions and certainty about one class, from its likelihood alone.

    .. math:: JSD(p, \mathbb{1}_y) = \ln 2 + \tfrac12 \big(p_y \ln p_y - (1 + p_y) \ln(1 + p_y)\big)

    `log_prob` is :math:`\ln p_y`, of any shape; the result has that shape and lies between 0 (certain) and
    :math:`\ln 2`.
    """
    log_prob = full_precision(log_prob)
    prob = log_prob.exp()
    return 0.5 * (prob * log_prob - (1 + prob) * prob.log1p()) + math.log(2)


def js_to_reference(logits: Tensor, reference_logits: Tensor) -> Tensor:
    r"""Jensen-Shannon divergence between the two models' predictions, `[...]` in nats, at most :math:`\ln 2`.

    It is `categorical_js_divergence` computed from logits `[..., num_classes]` of the same shape, with at least two
    classes; other shapes raise `InvalidInputError`.
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
        logits: `[..., num_classes]`; the result is `[...]`.
        target_logits: :math:`\tilde z` before the tokens are ruled out, same shape; without gradient.
        token_ids: the tokens, class indices.
        mask_mode: sets their logits to :math:`-\infty` (`"ninf"`) or 0 (`"zero_logit"`).

    Raises:
        InvalidInputError: shapes differ, a token is no class, no token is left, or the mode is unknown.
    """
    check_choice("mask_mode", mask_mode, MASK_MODES)
    check_token_ids("token_ids", token_ids)
    check_categorical(logits, logits.shape[:-1])
    check_same_shape("logits", logits, target_logits)
    check_token_range(token_ids, logits)
    if mask_mode == "ninf" and len(set(token_ids)) == logits.size(-1):
        raise InvalidInputError(f"Expected 'token_ids' that leave a class over (got all {logits.size(-1)})")
    index = torch.tensor(token_ids, device=logits.device)
    fill = -torch.inf if mask_mode == "ninf" else 0.0
    target = full_precision(target_logits.detach()).index_fill(-1, index, fill).softmax(-1)
    return cross_entropy(target, logits) + torch.xlogy(target, target).sum(-1)
