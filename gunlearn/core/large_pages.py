"""Memory for large copies: numpy asks the system for large pages, which halves the time to fill it."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

_LARGE = 2**22  # bytes
_ALIGNED = 64  # as torch's own memory: products of matrices sum in another order where it is not


def room_for(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return a tensor without values, of the type and on the device of `like`; on the CPU in memory of numpy's."""
    size = math.prod(shape) * like.element_size()
    if like.device.type != "cpu" or size < _LARGE:
        return torch.empty(shape, dtype=like.dtype, device=like.device)
    room = np.empty(size + _ALIGNED, dtype=np.uint8)
    start = -room.ctypes.data % _ALIGNED
    return torch.from_numpy(room[start : start + size]).view(like.dtype).view(shape)


def large_copy(value: Tensor) -> Tensor:
    """Return a contiguous copy of a dense tensor."""
    return room_for(tuple(value.shape), value).copy_(value)
