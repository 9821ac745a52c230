"""Sorts and divisions of integer keys; on CPU by numpy's vectorised ones."""

import numpy as np
import torch
from torch import Tensor


def argsort(key: Tensor, stable: bool = False) -> Tensor:
    """Return the order of integer keys >= 0.

    On CPU keys and places are packed into one integer if they fit (stable, and several times faster than any argsort);
    else numpy's argsort runs.
    """
    if key.device.type != "cpu":
        return key.argsort(stable=stable)
    return sort_places(key, stable)[1]


def sort_places(key: Tensor, stable: bool = False) -> tuple[Tensor, Tensor]:
    """Return the sorted keys, and `argsort` of them."""
    if key.device.type != "cpu":
        return key.sort(stable=stable)
    array, bits = key.numpy().astype(np.int64, copy=False), max(key.numel(), 1).bit_length()
    if key.numel() == 0 or int(array.max()) < 2 ** (63 - bits):
        packed = (array << bits) | np.arange(array.size)
        packed.sort()
        return torch.from_numpy(packed >> bits), torch.from_numpy(packed & ((1 << bits) - 1))
    order = np.argsort(array, kind="stable" if stable else "quicksort")
    return torch.from_numpy(array[order]), torch.from_numpy(order)


def lexsort(row: Tensor, col: Tensor) -> Tensor:
    """Return the order of pairs by row, then by column; equal pairs keep their order."""
    order = argsort(col, stable=True)  # two passes: a joint key leaves no room for the places
    return order[argsort(row[order], stable=True)]


def sort(key: Tensor) -> Tensor:
    """Return sorted integer keys; on CPU several times faster than torch's sort."""
    return key.sort()[0] if key.device.type != "cpu" else torch.from_numpy(np.sort(key.numpy()))


def floor_divide(key: Tensor, by: int) -> Tensor:
    """Return `key // by` of integer keys; on CPU by numpy, whose division by one number is several times as fast."""
    return key // by if key.device.type != "cpu" else torch.from_numpy(key.numpy() // by)


def unique(key: Tensor) -> Tensor:
    """Return the distinct integer keys `[k]`, sorted; `torch.unique` by the faster sort."""
    if key.device.type != "cpu":
        return key.unique()
    ordered = sort(key.reshape(-1))
    return ordered[_starts(ordered)]


def unique_inverse(key: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct keys >= 0, sorted, and the number of each entry of `key` `[n]` among them."""
    if key.device.type != "cpu":
        return key.unique(return_inverse=True)
    order = argsort(key)
    ordered = key[order]
    starts = _starts(ordered)
    number = torch.empty_like(order)
    number[order] = starts.cumsum(0) - 1
    return ordered[starts], number


def places(mask: Tensor) -> Tensor:
    """Return where a mask `[n]` is true, ascending; on CPU by numpy, several times faster where it seldom is."""
    return mask.nonzero().view(-1) if mask.device.type != "cpu" else torch.from_numpy(np.flatnonzero(mask.numpy()))


def _starts(ordered: Tensor) -> Tensor:
    starts = torch.ones(ordered.numel(), dtype=torch.bool)
    torch.ne(ordered[1:], ordered[:-1], out=starts[1:])
    return starts
