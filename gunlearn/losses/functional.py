"""Pure tensor functions behind the loss classes: one value per item, no masks, no reduction.

Inputs of lower precision than float32 are computed, and returned, in float32: half precision is too coarse for a
log-softmax over a vocabulary or a sum over many items. Gradients have the input's own type.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gunlearn.core.checks import check_number, check_same_shape
from gunlearn.errors import InvalidInputError
from gunlearn.losses.divergences import (
    categorical_js_divergence,
    distillation,
    gaussian_js_divergence,
    gaussian_kl,
    js_divergence,
    js_to_label,
    js_to_reference,
    kl_divergence,
    masked_vocabulary,
)
from gunlearn.losses.reduction import full_precision, reduce_values
from gunlearn.losses.token_functional import (
    control_vector,
    cross_entropy_unlearning,
    dpo,
    flat_logits,
    inverted_hinge,
    kto,
    mean_tokens,
    sim_npo,
    undial,
    weighted_ascent,
)

__all__ = [
    "categorical_js_divergence",
    "control_vector",
    "cross_entropy_unlearning",
    "distillation",
    "dpo",
    "flat_logits",
    "gaussian_js_divergence",
    "gaussian_kl",
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


def nll(log_prob: Tensor) -> Tensor:
    r"""Negative log-likelihood :math:`-\log p` in nats, of any shape."""
    return -full_precision(log_prob)


def npo(log_prob: Tensor, reference_log_prob: Tensor, beta: float, ratio_offset: float = 0.0) -> Tensor:
    r"""Negative preference optimisation, `arXiv:2404.05868 <https://arxiv.org/abs/2404.05868>`_.

    .. math:: \frac{2}{\beta} \log\Big(1 + \big(p / p_{ref} + c\big)^\beta\Big)

    Computed in log space as `(2 / beta) * softplus(beta * log_ratio)`: finite for every finite log-ratio, with a
    derivative between 0 and 2. The result has the shape of `log_prob`; it is `2 ln 2 / beta` where the models agree and
    `c = 0`.

    Args:
        log_prob: log-likelihood under the current model, `[num_items]` or `[num_items, num_tokens]`.
        reference_log_prob: the same under the model before unlearning, same shape.
        beta: inverse temperature, positive; its limit 0 is gradient ascent (up to a constant).
        ratio_offset: the constant :math:`c \ge 0` that the official code of INPO (arXiv 2510.19479) adds to the ratio
            (1e-4); 0 is the paper's loss.

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

    The official code of INPO (`arXiv:2510.19479 <https://arxiv.org/abs/2510.19479>`_) passes probabilities instead of
    logits, so that the value lies between 0.313 (p = 1) and 0.693 (p = 0). Only for repeating that code; otherwise use
    `nll`. `log_prob` may have any shape.
    """
    return _softplus(-full_precision(log_prob).exp())


def topological_entropy(embeddings: Tensor, reference_embeddings: Tensor, item_dims: int = 1) -> Tensor:
    r"""Cross-entropy of embeddings read as distributions, L_TE of `INPO <https://arxiv.org/abs/2510.19479>`_.

    .. math:: -\sum_d \mathrm{softmax}(z^{ref})_d \, \log \mathrm{softmax}(z)_d

    averaged over the dimensions between items and features (the two end points of an edge). Its minimum, the entropy of
    the reference, is not 0; its gradient vanishes where the two embeddings agree up to a constant.

    Both arguments are `[num_items, ..., dim]`, and the result keeps the first `item_dims` dimensions (2 for
    `[num_items, num_tokens, dim]`). Shapes that differ or lack a feature dimension raise `InvalidInputError`.
    """
    check_same_shape("embeddings", embeddings, reference_embeddings)
    if embeddings.dim() <= item_dims:
        raise InvalidInputError(f"Expected 'embeddings' [num_items, ..., dim] (got {tuple(embeddings.shape)})")
    target = full_precision(reference_embeddings).softmax(-1)
    return _mean_rest(-(target * full_precision(embeddings).log_softmax(-1)).sum(-1), item_dims)


def mse(values: Tensor, reference: Tensor, item_dims: int = 1) -> Tensor:
    """Squared difference of tensors `[num_items, ...]`, averaged over all but the first `item_dims` dimensions.

    Shapes that differ raise `InvalidInputError`. `item_dims` is 2 for `[num_items, num_tokens, dim]`.
    """
    check_same_shape("values", values, reference)
    return _mean_rest((full_precision(values) - full_precision(reference)).square(), item_dims)


def sum_tokens(log_prob: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Log-likelihood of whole items, :math:`\sum_t \log p(y_t | y_{<t})`, `[num_items]`.

    `log_prob` is `[num_items]` (returned unchanged) or `[num_items, num_tokens]`; the sum is over the tokens where the
    boolean `mask` of that shape is true.
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
