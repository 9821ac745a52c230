"""Data whose tensors take no gradient."""

import copy
from typing import Any

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
