"""Copies of a large tensor that share its memory: the system copies a page when somebody writes to it."""

from __future__ import annotations

import mmap
import os

import numpy as np
import torch
from torch import Tensor

_LARGE = 2**22  # bytes


class Image:
    """The content of a dense tensor on the CPU, which stays, and of which copies cost what is written to them.

    It lies in a file in memory that has no name (Linux). A copy is a tensor like any other; saved or sent to another
    process it is written whole.

    Raises:
        OSError: the system gives no memory or no file for it.
    """

    def __init__(self, value: Tensor) -> None:
        self.shape, self.dtype = tuple(value.shape), value.dtype
        self._size = value.numel() * value.element_size()
        self._file = os.fdopen(os.memfd_create("features"), "r+b")
        self._file.truncate(self._size)
        self._map(mmap.MAP_SHARED).copy_(value.detach())

    def copy(self) -> Tensor:
        """Return a tensor of this content, which may be written to.

        Raises:
            OSError: the process has no file descriptor left, of which each copy takes one.
        """
        return self._map(mmap.MAP_PRIVATE)

    def _map(self, kind: int) -> Tensor:
        pages = mmap.mmap(self._file.fileno(), self._size, flags=kind)
        return torch.from_numpy(np.frombuffer(pages, dtype=np.uint8)).view(self.dtype).view(self.shape)


def can_share(value: Tensor) -> bool:
    """Return whether an `Image` of a tensor pays: it is large, dense and on the CPU, and the system is Linux."""
    plain = value.layout == torch.strided and value.device.type == "cpu" and value.is_contiguous()
    return plain and value.numel() * value.element_size() >= _LARGE and hasattr(os, "memfd_create")
