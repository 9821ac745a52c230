"""The output head of a language model: log-probabilities of given tokens without the logits of the whole batch."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gunlearn.core.modes import evaluating
from gunlearn.losses.reduction import full_precision

#: Most logits held at a time: 64 MiB in float32.
LOGIT_CHUNK = 2**24


def token_log_prob(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, label: Tensor, chunk: int = LOGIT_CHUNK
) -> Tensor:
    r"""Return the log-likelihood of each label under a linear head, :math:`\log\mathrm{softmax}(W h_n + b)_{y_n}`.

    Computed and differentiated a few tokens at a time: memory is `chunk` logits instead of `num_tokens x vocab_size`.
    With a frozen head (an adapter is trained) the backward pass computes no logits: the forward pass keeps each token's
    derivative with respect to its hidden state, a vector. First derivatives only.

    `hidden` is `[num_tokens, dim]`, `weight` `[vocab_size, dim]`, `label` token ids `[num_tokens]`. Returns
    `[num_tokens]` in nats, in float32 (float64 for float64); under autocast the logits have its type.
    """
    if torch.is_autocast_enabled(hidden.device.type):
        # Cast outside the function: autocast is off in its backward pass, which computes the logits again.
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    return _TokenLogProb.apply(hidden, weight, bias, label, max(1, chunk // weight.size(0)))


class _TokenLogProb(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, label: Tensor, rows: int) -> Tensor:
        out, slopes = [], []
        for h, y in zip(hidden.split(rows), label.split(rows), strict=True):
            logits = full_precision(F.linear(h, weight, bias))
            chosen = logits.gather(1, y[:, None])
            top, total = _exponentials(logits)
            out.append((chosen - top - total.log())[:, 0])
            if ctx.needs_input_grad[0]:
                excess = _excess(logits, total, y).to(weight.dtype) @ weight
                slopes.append((excess / -total).to(weight.dtype))
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
                _, total = _exponentials(logits)
                d_logits = _excess(logits, total, y).mul_(g[:, None] / -total)
                d_weight.addmm_(d_logits.T, h.to(grad.dtype))
                if d_bias is not None:
                    d_bias += d_logits.sum(0)
            d_weight = d_weight.to(weight.dtype)
            d_bias = None if d_bias is None else d_bias.to(bias.dtype)
        return d_hidden, d_weight, d_bias, None, None


def _exponentials(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Overwrite logits with their exponentials, divided by the largest one's; return the largest logits, and the sums.

    One pass of `exp` serves the log-probabilities and their derivatives: softmax is the exponentials over their sum.
    """
    top = logits.amax(-1, keepdim=True)
    return top, logits.sub_(top).exp_().sum(-1, keepdim=True)


def _excess(exponentials: Tensor, total: Tensor, label: Tensor) -> Tensor:
    """Return softmax minus one-hot, times `total`: minus the derivative of log-probabilities by logits; in place."""
    return exponentials.scatter_add_(1, label[:, None], -total)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside distributed wrappers and `torch.compile`."""
    while isinstance(inner := getattr(model, "_orig_mod", getattr(model, "module", None)), nn.Module):
        model = inner
    return model


def without_peft(model: nn.Module) -> nn.Module:
    """Return the model of transformers inside wrappers and `PeftModel`; layers of adapters stay in it."""
    inner: Any = unwrap(model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def context_of(model: nn.Module) -> int | None:
    """Return the number of tokens that the model can read, `None` where its configuration does not say."""
    return getattr(getattr(model, "config", None), "max_position_embeddings", None)


def model_device(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter; of offloaded ones, where accelerate runs their module."""
    first = next(model.parameters(), None)
    if first is not None and first.is_meta:
        hooks = (getattr(module, "_hf_hook", None) for module in model.modules())
        places = (getattr(hook, "execution_device", None) for hook in hooks)
        return next((torch.device(place) for place in places if place is not None), first.device)
    return torch.device("cpu") if first is None else first.device


def output_head(model: nn.Module) -> nn.Module | None:
    """Return the layer that turns hidden states into logits, `None` if the model names none."""
    get = getattr(unwrap(model), "get_output_embeddings", None)
    return get() if callable(get) else None


@contextmanager
def replaced_forward(head: nn.Module, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Make a head compute `function(hidden)` inside the block."""
    head.forward = function
    try:
        yield
    finally:
        del head.forward


_LAST: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def last_linear_head(model: nn.Module, input_ids: Tensor) -> nn.Linear | None:
    """Return the model's head if it is a plain linear layer whose output the model returns unchanged, else `None`.

    Tried once per model, on a few tokens `input_ids` `[batch, tokens]`: some architectures cap or scale logits after
    the head. Sharded and compiled models, and heads with an adapter or a hook, give `None` without a try.
    """
    inner, head = unwrap(model), output_head(model)
    if type(head) is not nn.Linear or type(head.weight) is not nn.Parameter:
        return None
    if "forward" in head.__dict__ or head._forward_hooks or head._forward_pre_hooks:
        return None
    if inner is not model and not isinstance(model, nn.parallel.DistributedDataParallel):
        return None
    if inner not in _LAST:
        _LAST[inner] = _returns_output_of(head, inner, input_ids[:1, :8])
    return head if _LAST[inner] else None


@torch.no_grad()
def _returns_output_of(head: nn.Linear, model: nn.Module, input_ids: Tensor) -> bool:
    shape = (*input_ids.shape, head.out_features)
    # Large enough to be capped, and with values that half precision would round.
    mark = torch.linspace(-100, 100, math.prod(shape), device=input_ids.device).view(shape)
    read = []

    def mark_all(hidden: Tensor) -> Tensor:
        read.append(hidden.shape[:2])
        return mark

    with evaluating(model), replaced_forward(head, mark_all):
        logits = getattr(model(input_ids=input_ids, use_cache=False), "logits", None)
    return read == [shape[:2]] and isinstance(logits, Tensor) and torch.equal(logits, mark)


def without_autocast(accelerator: Any, model: nn.Module) -> None:
    """Remove accelerate's mixed-precision wrapper from the model's forward."""
    if "_original_forward" in model.__dict__:
        accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        del model.forward  # restores the class's method
