"""Dictionaries and lists that hold a record of each node on a model's modules."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map


def node_records(model: nn.Module, size: int) -> dict[str, Any]:
    """Return plain dictionaries by the numbers of `size` nodes, and lists of numbers per node, on a model's modules."""
    found: dict[str, Any] = {}
    for path, owner in model.named_modules():
        for name, value in vars(owner).items():
            by_node = isinstance(value, dict) and len(value) == size and value.keys() == set(range(size))
            by_node = by_node and not all(is_ids(entry) for entry in value.values())
            if by_node or (type(value) is list and len(value) == size and all(map(_is_state, value))):
                found[f"{path}.{name}" if path else name] = value
    return found


def _is_state(value: Any) -> bool:
    """Return whether an entry of a list holds floating point numbers."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(number, float) for number in value)
    return isinstance(value, float) or (not isinstance(value, nn.Parameter) and _is_floats(value))


def _is_floats(value: Any) -> bool:
    tensor = as_tensor(value)
    return tensor is not None and tensor.is_floating_point()


def is_ids(value: Any) -> bool:
    """Return whether an entry is a collection of integers, the neighbours of a node."""
    if isinstance(value, Tensor | np.ndarray):
        return len(value.shape) == 1 and str(value.dtype).rpartition(".")[2].startswith("int")
    return isinstance(value, list | tuple | set | frozenset) and all(type(number) is int for number in value)


def new_record(record: Any) -> Any:
    """Return an empty record of the same kind: zeros of the same shape, an empty text, no events.

    An object of another class comes back as it is.
    """
    if isinstance(record, str | bytes | set):
        return type(record)()
    if isinstance(record, list | dict):
        entries = record.values() if isinstance(record, dict) else record
        if not all(isinstance(entry, Tensor | np.ndarray | int | float) for entry in entries):
            return type(record)()  # events
    return tree_map(_zero, record)


def _zero(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.zeros_like(value)
    if isinstance(value, np.ndarray | np.generic):
        return np.zeros_like(value)
    return type(value)() if isinstance(value, int | float | str) else value


def as_tensor(value: Any) -> Tensor | None:
    """Return a tensor, or a float array as one that shares its memory; `None` for anything else."""
    if isinstance(value, Tensor):
        return value
    shared = type(value) is np.ndarray and value.dtype.kind == "f" and value.dtype.itemsize < 16
    shared = shared and value.flags.writeable and min(value.strides, default=0) >= 0
    return torch.from_numpy(value) if shared else None
