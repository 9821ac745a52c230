"""IMU's weights: items whose gradients agree with the mean gradient weigh most (arXiv 2508.01620)."""

import math

import torch
from torch import Tensor

from gunlearn.core.checks import check_categorical, check_choice, check_number
from gunlearn.errors import InvalidInputError
from gunlearn.losses.reduction import full_precision


def item_weights(influence: Tensor, top: float = 1.0, cap: float = 0.93) -> Tensor:
    r"""Weights of items, :math:`\min(\sqrt{|I_i|}, q)` where :math:`I_i < 0` and 0 elsewhere, `[num_items]`.

    All weights are 1 where no item has a negative influence (all losses are flat).

    Args:
        influence: `[num_items]`.
        top: share of the items with negative influence that keep their weight (at least one), the largest first.
        cap: level of the quantile `q` of all :math:`\sqrt{|I|}`; where `q` is 0, of those that keep their weight.
    """
    size = influence.abs().sqrt()
    kept = influence < 0
    number = math.ceil(top * int(kept.sum()))
    if number == 0:
        return torch.ones_like(influence)
    least = size[kept].topk(number).values[-1]
    kept &= size >= least
    limit = torch.quantile(size.double(), cap).to(size)
    limit = limit if limit > 0 else torch.quantile(size[kept].double(), cap).to(size)
    return torch.where(kept, size.clamp(max=limit), 0)


@torch.no_grad()
def linear_head_influence(
    hidden: Tensor,
    logits: Tensor,
    label: Tensor,
    mask: Tensor | None = None,
    damping: float = 0.01,
    per: str = "token",
) -> Tensor:
    r"""Influence :math:`-g_i^T F^{-1} \bar g` under a linear head without bias, in closed form; 0 for masked entries.

    .. math:: g = (p - y)\, h^T, \qquad F = \tfrac1n \sum_i g_i^2 + \lambda, \qquad \bar g = \tfrac1n \sum_i g_i

    No gradient of a single token is stored: :math:`F` and :math:`\bar g` are matrix products over all tokens (for
    `per="item"`, one sequence at a time). Memory is twice the head's.

    Args:
        hidden: the head's input, `[num_items, num_tokens, dim]` or `[num_items, dim]`.
        logits: `[num_items, num_tokens, num_classes]` or `[num_items, num_classes]`.
        label: class indices `[num_items, num_tokens]` or `[num_items]`.
        mask: boolean, shaped like `label`; masked entries do not count.
        damping: :math:`\lambda`, positive.
        per: `"token"` returns the influence of each token, shaped like `label`; `"item"` its sum over each item's
            tokens, `[num_items]`.

    Raises:
        InvalidInputError: shapes that do not fit, or a number out of range.
    """
    check_choice("per", per, ("token", "item"))
    check_number("damping", damping, positive=True)
    check_categorical(logits, label.shape)
    if hidden.shape[:-1] != label.shape:
        raise InvalidInputError(f"Expected 'hidden' [{tuple(label.shape)}, dim] (got {tuple(hidden.shape)})")
    mask = torch.ones_like(label, dtype=torch.bool) if mask is None else mask
    error = full_precision(logits[mask]).softmax(-1)
    error.scatter_add_(1, label[mask].unsqueeze(-1), -torch.ones_like(error[:, :1]))
    h = full_precision(hidden[mask])
    if len(h) == 0:
        return torch.zeros_like(label, dtype=error.dtype) if per == "token" else error.new_zeros(label.size(0))
    whole = per == "item" and label.dim() > 1
    if whole:
        sizes = mask.sum(1)
        pieces = list(zip(error.split(sizes.tolist()), h.split(sizes.tolist()), strict=True))
        number = int((sizes > 0).sum())
        squares = sum((e.T @ x).square_() for e, x in pieces) / number
    else:
        number = len(h)
        squares = error.square().T @ h.square() / number
    pull = (error.T @ h / number).div_(squares.add_(damping))
    found = -((error @ pull) * h).sum(-1)
    out = found.new_zeros(label.shape).masked_scatter(mask, found)
    return out.sum(1) if whole else out


def influence_weights(
    hidden: Tensor,
    logits: Tensor,
    label: Tensor,
    mask: Tensor | None = None,
    damping: float = 0.01,
    per: str = "token",
    top: float = 1.0,
    cap: float = 0.93,
) -> Tensor:
    """Return IMU's weights of tokens (shaped like `label`) or items `[num_items]`: mean 1, and 0 for masked entries.

    Use them with `GradientAscent`: `current.replace(weight=influence_weights(...))`. The weights of an item depend on
    the rest of its batch. The head is the linear output layer, which reads the last hidden states; the authors use the
    attention weights of three layers of their language models, which have no closed form.

    Arguments and errors are those of `linear_head_influence` and, for `top` and `cap`, of `item_weights`; `top=0.1` is
    the default of the authors' code.

    Example:
        >>> h, z = torch.eye(3), torch.zeros(3, 4)
        >>> influence_weights(h, z, torch.tensor([1, 2, 3]))
        tensor([1., 1., 1.])
    """
    influence = linear_head_influence(hidden, logits, label, mask, damping, per)
    kept = torch.ones_like(label, dtype=torch.bool) if mask is None else mask
    if influence.dim() < kept.dim():
        kept = kept.any(1)
    if not kept.any():
        return influence
    weight = item_weights(influence[kept], top, cap)
    return torch.zeros_like(influence).masked_scatter(kept, weight / weight.mean())
