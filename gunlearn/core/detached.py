"""Data whose tensors take no gradient, and copies that a caller's function may change."""

import copy
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor


def detached(data: Any) -> Any:
    """Return `data`, or where its tensors require a gradient a shallow copy with detached ones.

    A backward pass would leave the gradient of what is forgotten on the caller's tensors.
    """
    names = list(data.keys()) if hasattr(data, "keys") else list(getattr(data, "__dict__", ()))
    values = {name: getattr(data, name, None) for name in names}
    found = {name: value for name, value in values.items() if isinstance(value, Tensor) and value.requires_grad}
    if not found:
        return data
    data = copy.copy(data)
    for name, value in found.items():
        setattr(data, name, value.detach())
    return data


def own_form(data: Any) -> Any:
    """Return a table of items in the form that the caller's data have (a pair, a data set, a loader); others as is."""
    back = getattr(data, "back", None)
    return back(data) if callable(back) else data


def private(data: Any) -> Any:
    """Return a copy of `data` that a caller's function may change in place: all tensors and collections are copied.

    What cannot be copied, such as a data set that reads an open file, is handed over as it is.
    """
    out = copy.copy(data)
    memo: dict[int, Any] = {}
    names = list(data.keys()) if hasattr(data, "keys") else list(getattr(data, "__dict__", ()))
    for name in names:
        value = data[name] if hasattr(data, "keys") else getattr(data, name)
        if isinstance(value, Tensor) and (value.layout != torch.strided or not value.is_leaf):
            kept = memo.setdefault(id(value), value.detach().clone())  # deepcopy knows no such tensors
        else:
            kept = value
            with suppress(RuntimeError, TypeError, NotImplementedError):
                kept = copy.deepcopy(value, memo)
        setattr(out, name, kept)
    return out
