"""Pure tensor functions behind the losses of language models, part of `gunlearn.losses.functional`.

Like those they compute in float32 at least and return one value per item or token. No gradient flows through targets
and weights that are made of the current model's own predictions, as in the papers.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from gunlearn.core.checks import check_categorical, check_number, check_same_shape
from gunlearn.losses.divergences import cross_entropy
from gunlearn.losses.reduction import full_precision


def mean_tokens(log_prob: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Log-likelihood per token, :math:`\frac{1}{|y|} \log p(y)`, `[num_items]`; 0 for items without a token.

    Arguments are those of `functional.sum_tokens`.
    """
    log_prob = full_precision(log_prob)
    if log_prob.dim() == 1:
        return log_prob
    mask = torch.ones_like(log_prob, dtype=torch.bool) if mask is None else mask
    return torch.where(mask, log_prob, 0).flatten(1).sum(1) / mask.flatten(1).sum(1).clamp_min(1)


def sim_npo(mean_log_prob: Tensor, beta: float, delta: float = 0.0) -> Tensor:
    r"""Simple negative preference optimisation, `[num_items]`, `arXiv:2410.07163 <https://arxiv.org/abs/2410.07163>`_.

    .. math:: -\frac{2}{\beta} \log\sigma\Big(\beta \big(-\tfrac{1}{|y|} \log p(y) - \delta\big)\Big)

    `mean_log_prob` comes from `mean_tokens`. The gradient of an item fades out once its loss per token is above
    `delta`; the paper's :math:`\gamma` is :math:`\beta \delta`. A `beta` that is not positive or an infinite `delta`
    raises `InvalidInputError`.
    """
    check_number("beta", beta, positive=True)
    check_number("delta", delta)
    return -2 / beta * F.logsigmoid(-beta * (full_precision(mean_log_prob) + delta))


def dpo(preferred_log_ratio: Tensor, rejected_log_ratio: Tensor, beta: float, scale: float | None = None) -> Tensor:
    r"""Direct preference optimisation, `[num_items]`, eq. 7 of `arXiv:2305.18290 <https://arxiv.org/abs/2305.18290>`_.

    .. math:: -\log\sigma\big(\beta (r_w - r_l)\big), \qquad r = \log p(y) - \log p_{ref}(y)

    Args:
        preferred_log_ratio: :math:`r_w` of whole items, `[num_items]`.
        rejected_log_ratio: :math:`r_l`, same shape.
        beta: inverse temperature, positive.
        scale: multiplies the value by `scale / beta`; `None` leaves it unchanged.

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
    r"""The undesirable half of KTO, `[num_items]` in [0, 1], `arXiv:2402.01306 <https://arxiv.org/abs/2402.01306>`_.

    .. math:: 1 - \sigma\big(\beta (z_0 - r)\big), \qquad r = \log p(y) - \log p_{ref}(y)

    `log_ratio` is :math:`r` of whole items, `[num_items]`, and `point` the reference point :math:`z_0`, without
    gradient. The inverse temperature `beta` must be positive, else `InvalidInputError`.
    """
    check_number("beta", beta, positive=True)
    return torch.sigmoid(beta * (full_precision(log_ratio) - point))


def weighted_ascent(log_prob: Tensor, known: float = 1.0, unknown: float = 0.0) -> Tensor:
    r"""Gradient ascent with a weight that depends on how likely the token is: :math:`sg(p^a (1-p)^b) \log p`.

    `known` is the exponent :math:`a`, `unknown` the exponent :math:`b`; negative ones raise `InvalidInputError`. The
    result has the shape of `log_prob`, `[num_items]` or `[num_items, num_tokens]`, and is not below :math:`-1/(e a)`.
    """
    check_number("known", known, minimum=0.0)
    check_number("unknown", unknown, minimum=0.0)
    log_prob = full_precision(log_prob)
    fixed = log_prob.detach()
    # exp(a log p), not p ** a, which loses its digits where p underflows.
    return (known * fixed).exp() * (-torch.expm1(fixed)).clamp_min(0) ** unknown * log_prob


def inverted_hinge(logits: Tensor, label: Tensor) -> Tensor:
    r"""Inverted hinge loss, between 0 and 2, `arXiv:2408.06621 <https://arxiv.org/abs/2408.06621>`_.

    .. math:: 1 + p_y - \max_{v \ne y} p_v

    `logits` are `[..., num_classes]`, `label` class indices `[...]`, the result `[...]`; other shapes raise
    `InvalidInputError`.
    """
    check_categorical(logits, label.shape)
    prob = full_precision(logits).softmax(-1)
    index = label.unsqueeze(-1)
    return 1 + prob.gather(-1, index).squeeze(-1) - prob.scatter(-1, index, -1.0).amax(-1)


def undial(logits: Tensor, reference_logits: Tensor, label: Tensor, beta: float) -> Tensor:
    r"""Self-distillation with the token's logit lowered, `arXiv:2402.10052 <https://arxiv.org/abs/2402.10052>`_.

    .. math:: -\sum_v q_v \log p_v, \qquad q = \mathrm{softmax}(z_{ref} - \beta\, \mathbb{1}_y)

    Its minimum is the entropy of `q`, not 0. Both models' logits are `[..., num_classes]`, `label` class indices
    `[...]`, the result `[...]`; other shapes, or a `beta` that is not positive, raise `InvalidInputError`.
    """
    check_number("beta", beta, positive=True)
    check_categorical(logits, label.shape)
    check_same_shape("logits", logits, reference_logits)
    z = full_precision(reference_logits)
    index = label.unsqueeze(-1)
    return cross_entropy(z.scatter_add(-1, index, z.new_full(index.shape, -beta)).softmax(-1), logits)


def cross_entropy_unlearning(logits: Tensor, label: Tensor) -> Tensor:
    r"""Cross-entropy with the model's own predictions less the label, `arXiv:2503.01224 <https://arxiv.org/abs/2503.01224>`_.

    .. math:: -\sum_v q_v \log p_v, \qquad q = sg\big(\mathrm{softmax}(z \text{ with } z_y = -\infty)\big)

    Shapes and errors are those of `inverted_hinge`.
    """
    check_categorical(logits, label.shape)
    fixed = full_precision(logits.detach()).scatter(-1, label.unsqueeze(-1), -torch.inf)
    return cross_entropy(fixed.softmax(-1), logits)


def flat_logits(logits: Tensor) -> Tensor:
    r"""Squared distance of the largest logit from the mean, `arXiv:2506.05314 <https://arxiv.org/abs/2506.05314>`_.

    .. math:: \big(\max_v z_v - \tfrac1V \sum_v z_v\big)^2

    `logits` are `[..., num_classes]`, the result `[...]`; it is 0 where all classes are equally likely. Fewer than two
    classes raise `InvalidInputError`.
    """
    check_categorical(logits, logits.shape[:-1])
    logits = full_precision(logits)
    return (logits.amax(-1) - logits.mean(-1)).square()


@lru_cache(maxsize=16)
def control_vector(dim: int, seed: int = 0) -> Tensor:
    """Return RMU's `u`, `[dim]` in float64: a direction with positive entries and unit norm, the same on every machine.

    It is drawn at random by `seed`, and cached: do not change it in place.
    """
    u = torch.rand(dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return u / u.norm()
