"""Log-probabilities of given tokens straight from hidden states: the logits of the whole batch never exist at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gunlearn.losses.reduction import full_precision

#: Logits held at a time: 64 MiB in float32.
CHUNK = 2**24


def token_log_prob(hidden: Tensor, weight: Tensor, bias: Tensor | None, label: Tensor, chunk: int = CHUNK) -> Tensor:
    r"""Log-likelihood of each label under a linear head, :math:`\log\mathrm{softmax}(W h_n + b)_{y_n}`.

    Computed, and differentiated, a few tokens at a time: memory is `chunk` logits instead of `num_tokens x vocab_size`.
    With a frozen head (an adapter is trained) the backward pass computes no logits at all: the derivative of one number
    per token with respect to its hidden state is a vector, which the forward pass keeps. The first derivative only.

    Args:
        hidden: what the head reads, `[num_tokens, dim]`.
        weight: `[vocab_size, dim]`.
        bias: `[vocab_size]` or `None`.
        label: token ids `[num_tokens]`.
        chunk: logits held at a time.

    Returns:
        `[num_tokens]` in nats, in float32 (float64 for float64); under autocast the logits are in its type.
    """
    if torch.is_autocast_enabled(hidden.device.type):
        # Cast out here: autocast is off in the backward pass, which computes the logits again.
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight, bias = (None if x is None else x.to(dtype) for x in (hidden, weight, bias))
    return _TokenLogProb.apply(hidden, weight, bias, label, max(1, chunk // weight.size(0)))


class _TokenLogProb(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, label: Tensor, rows: int) -> Tensor:
        out, slopes = [], []
        for h, y in zip(hidden.split(rows), label.split(rows), strict=True):
            logits = full_precision(F.linear(h, weight, bias))
            normaliser = logits.logsumexp(-1, keepdim=True)
            out.append((logits.gather(1, y[:, None]) - normaliser)[:, 0])
            if ctx.needs_input_grad[0]:
                slopes.append(_score_slope(logits, normaliser, y).to(weight.dtype) @ weight)
        slope = torch.cat(slopes) if slopes else None
        recompute = any(ctx.needs_input_grad[1:3])
        ctx.rows, ctx.has_bias = rows, bias is not None
        ctx.save_for_backward(slope, *((hidden, weight, bias, label) if recompute else (None,) * 4))
        return torch.cat(out) if out else full_precision(hidden.new_zeros(0))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        slope, hidden, weight, bias, label = ctx.saved_tensors
        d_hidden = None if slope is None else (grad[:, None] * slope).to(slope.dtype)
        d_weight = d_bias = None
        if any(ctx.needs_input_grad[1:3]):
            d_weight = torch.zeros_like(weight, dtype=grad.dtype)
            d_bias = torch.zeros_like(bias, dtype=grad.dtype) if ctx.has_bias else None
            pieces = (x.split(ctx.rows) for x in (hidden, label, grad))
            for h, y, g in zip(*pieces, strict=True):
                logits = full_precision(F.linear(h, weight, bias))
                d_logits = _score_slope(logits, logits.logsumexp(-1, keepdim=True), y).mul_(g[:, None])
                d_weight.addmm_(d_logits.T, h.to(grad.dtype))
                if d_bias is not None:
                    d_bias += d_logits.sum(0)
            d_weight = d_weight.to(weight.dtype)
            d_bias = None if d_bias is None else d_bias.to(bias.dtype)
        return d_hidden, d_weight, d_bias, None, None


def _score_slope(logits: Tensor, normaliser: Tensor, label: Tensor) -> Tensor:
    """Derivative of the labels' log-probabilities by the logits, one-hot minus softmax; overwrites `logits`."""
    slope = logits.sub_(normaliser).exp_().neg_()
    return slope.scatter_add_(1, label[:, None], torch.ones_like(slope[:, :1]))


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside `DistributedDataParallel` and its kin, and inside what `torch.compile` made of it."""
    while True:
        inner = getattr(model, "_orig_mod", getattr(model, "module", None))
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter is."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def output_head(model: nn.Module) -> nn.Module | None:
    """The layer that turns hidden states into logits, `None` if the model names none."""
    get = getattr(unwrap(model), "get_output_embeddings", None)
    return get() if callable(get) else None


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside the block all modules are in evaluation mode; afterwards each is in the mode that it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def replaced_head(model: nn.Module, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside the block the model's head computes `function(hidden)`; afterwards it is what it was."""
    head = output_head(model)
    head.forward = function
    try:
        yield
    finally:
        del head.forward


_LAST: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def head_comes_last(model: nn.Module, input_ids: Tensor) -> bool:
    """Whether the model's head is a plain linear layer whose output the model returns as it is.

    Tried once per model, on a few tokens: some architectures cap or scale logits behind the head. Sharded and compiled
    models, and heads with an adapter or a hook on them, are answered with `False` untried.

    Args:
        model: a causal language model.
        input_ids: token ids `[batch, tokens]` to try it with.
    """
    inner, head = unwrap(model), output_head(model)
    if type(head) is not nn.Linear or type(head.weight) is not nn.Parameter:
        return False
    if "forward" in head.__dict__ or head._forward_hooks or head._forward_pre_hooks:
        return False
    if inner is not model and not isinstance(model, nn.parallel.DistributedDataParallel):
        return False
    if inner not in _LAST:
        _LAST[inner] = _returns_what_its_head_does(inner, input_ids[:1, :8])
    return _LAST[inner]


@torch.no_grad()
def _returns_what_its_head_does(model: nn.Module, input_ids: Tensor) -> bool:
    shape = (*input_ids.shape, output_head(model).out_features)
    # Large enough to be capped, and no number that half precision could hold.
    mark = torch.linspace(-100, 100, math.prod(shape), device=input_ids.device).view(shape)
    read = []

    def mark_all(hidden: Tensor) -> Tensor:
        read.append(hidden.shape[:2])
        return mark

    with evaluating(model), replaced_head(model, mark_all):
        logits = getattr(model(input_ids=input_ids, use_cache=False), "logits", None)
    return read == [shape[:2]] and isinstance(logits, Tensor) and torch.equal(logits, mark)


def without_autocast(accelerator: Any, model: nn.Module) -> None:
    """Take off what mixed precision of accelerate put around the model's forward: the model is like any other again."""
    if "_original_forward" in model.__dict__:
        accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        del model.forward  # the class's own, bound once more
