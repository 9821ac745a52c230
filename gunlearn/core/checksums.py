"""Sums of a tensor's words that show whether it has changed, by numpy too: as fast as memory is read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gunlearn.core.digest import content_hash

#: Words of eight bytes are laid out in tables of so many rows and columns: a prime, which no width of features divides.
_ROWS, _COLUMNS = 64, 1021
_SIZE = 8 * _ROWS * _COLUMNS


def print_of(value: Any) -> Any:
    """Return something that equals that of another value with the same content, and else differs.

    Of tensors and arrays these are the sums over rows and columns of tables of their words, a sixtieth of their size,
    so that moved values and changed signs count as changed too. They tell an edit, not an attack: who changes the four
    corners of a rectangle of such a table, and keeps all its sums, goes unseen.
    """
    if isinstance(value, np.ndarray) and value.dtype != object:
        return _of_array(str(value.dtype), value)
    if isinstance(value, Tensor) and value.layout == torch.strided:
        plain = value.detach().cpu()
        plain = plain if type(plain) is Tensor else plain.as_subclass(Tensor)
        if plain.dtype == torch.bfloat16 or plain.is_complex() or plain.is_quantized:
            return content_hash(plain)
        return _of_array(str(value.dtype), plain.numpy())
    if isinstance(value, Mapping):
        return tuple((str(key), print_of(entry)) for key, entry in value.items())
    return content_hash(value)


def print_after(before: Any, value: Any, rows: Tensor) -> Any:
    """Return `print_of(value)`, of which all `rows` `[k]` but a few are those of a value with the print `before`."""
    dense = isinstance(value, Tensor) and value.device.type == "cpu" and value.is_contiguous() and value.numel()
    if not dense or not isinstance(before, tuple) or before[:2] != (str(value.dtype), tuple(value.shape)):
        return print_of(value)
    plain = value.detach().numpy().reshape(-1).view(np.uint8)
    width = plain.size // value.size(0)
    changed = {at for row in rows.tolist() for at in range(row * width // _SIZE, ((row + 1) * width - 1) // _SIZE + 1)}
    digests = list(before[2])
    for at in changed:
        digests[at] = _digest(plain[at * _SIZE : (at + 1) * _SIZE])
    return *before[:2], tuple(digests)


def _of_array(kind: str, value: np.ndarray) -> tuple[str, tuple[int, ...], tuple[bytes, ...]]:
    plain = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
    return kind, value.shape, tuple(_digest(plain[at : at + _SIZE]) for at in range(0, plain.size, _SIZE))


def _digest(part: np.ndarray) -> bytes:
    """Return the sums of `_SIZE` bytes, or a hash of the last ones, which are fewer."""
    if part.size < _SIZE:
        return hashlib.blake2b(part.tobytes(), digest_size=8).digest()
    table, sums = part.view(np.int64).reshape(_ROWS, _COLUMNS), np.empty(_ROWS + _COLUMNS, dtype=np.int64)
    np.add.reduce(table, axis=0, out=sums[:_COLUMNS])  # it is read twice, from the cache
    np.add.reduce(table, axis=1, out=sums[_COLUMNS:])
    return sums.tobytes()
