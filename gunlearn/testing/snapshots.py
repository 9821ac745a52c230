"""Everything about a model, data and the random state that a method could spoil."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_HOOKS = [name for name in vars(nn.Module()) if "hooks" in name]


def no_op(*args: Any) -> None:
    """Do nothing: a hook of the caller's."""


no_op.__module__ = "callers_own"  # hooks of this package are known, and not warned of


def untidy(model: nn.Module) -> nn.Module:
    """Return the model in a state that callers may leave it in: mixed modes, a frozen parameter, gradients, hooks."""
    model.train()
    list(model.modules())[-1].eval()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    next(model.parameters()).requires_grad_(False)
    model.register_forward_hook(no_op)
    list(model.modules())[min(1, len(list(model.modules())) - 1)].register_forward_pre_hook(no_op)
    return model


def model_snapshot(model: nn.Module) -> dict[str, Any]:
    """Return everything about a model that a method could spoil."""
    modules = dict(model.named_modules())
    return {
        "parameters": {k: (p.detach().clone(), p.requires_grad, id(p)) for k, p in model.named_parameters()},
        "buffers": {k: b.detach().clone() for k, b in model.named_buffers()},
        "grads": {k: None if p.grad is None else p.grad.clone() for k, p in model.named_parameters()},
        "modes": {k: m.training for k, m in modules.items()},
        "hooks": {
            k: {hook: list(getattr(m, hook).values()) for hook in _HOOKS if getattr(m, hook)}
            for k, m in modules.items()
        },
        "attributes": {k: sorted(vars(m)) for k, m in modules.items()},
    }


def data_snapshot(data: Any) -> dict[Any, Any]:
    """Return values, versions and identities of the tensors of a graph, a table of items or a tuple of tensors."""
    entries = data.to_dict() if hasattr(data, "to_dict") else data if isinstance(data, Mapping) else enumerate(data)
    return {
        k: (v.clone(), v._version, v.requires_grad, id(v)) if isinstance(v, Tensor) else v
        for k, v in dict(entries).items()
    }


def random_snapshot() -> list[Any]:
    """Return the random states of Python, numpy and torch."""
    name, keys, *rest = np.random.get_state()
    return [random.getstate(), name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest, torch.get_rng_state()]


def equal(a: Any, b: Any) -> bool:
    """Return whether two snapshots are equal: tensors bit for bit."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def same_state(one: nn.Module, other: nn.Module) -> bool:
    """Return whether parameters and buffers are the same, bit by bit."""
    return equal({**one.state_dict()}, {**other.state_dict()})
