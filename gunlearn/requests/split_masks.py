"""Splits that data hold as ids, `split_idx` of OGB or `train_idx`, `val_idx` and `test_idx`, read as masks."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gunlearn.errors import InvalidInputError
from gunlearn.requests.graph_tensors import GONE, MASKS

_PART = "train|val|valid|validation|dev|test|holdout"
_LIST = re.compile(rf"(?:({_PART})(?:ing)?_(?:idx|index|indices|ids?|nodes?)|(?:idx|index|ids?)_({_PART}))")
_DICT = re.compile(r"split|idx|index|indices|mask")
_KEY = re.compile(rf"({_PART})(?:ing)?(?:_(?:idx|index|indices|ids?|nodes?|mask))?")


def split_masks(data: Any, size: int, strict: bool = True) -> dict[str, Tensor]:
    """Return the masks `[size]` that lists of ids in the data stand for, by the names `MASKS`; empty without lists.

    Lists are attributes such as `train_idx` or `idx_train`, and dicts such as `split_idx` with parts `"train"`,
    `"valid"` and `"test"`: integers in `[0, size)` in one dimension, or boolean `[size]`.

    Args:
        data: a graph.
        size: number of items: nodes, or graphs of a batch.
        strict: refuse lists that are neither; otherwise they are left out.

    Raises:
        InvalidInputError: such lists, or two that say other things of one part.
    """
    found: dict[str, tuple[str, Tensor]] = {}
    for part, name, value in _lists(data):
        mask = _mask(value, size)
        if mask is None:
            if strict:
                raise InvalidInputError(
                    f"Expected {name} to be a split: numbers of items in [0, {size}), or boolean, in one dimension "
                    f"(got {_shown(value)}); set data.{part} = torch.zeros({size}, dtype=torch.bool).index_fill(0, "
                    "ids, True), and so for the other parts"
                )
            continue
        if part in found and strict and not torch.equal(found[part][1], mask):
            raise InvalidInputError(
                f"Expected one split (got others in {found[part][0]} and {name}); delete one, or set data.{part}"
            )
        found.setdefault(part, (name, mask))
    return {part: mask.to(data.edge_index.device) for part, (_, mask) in found.items()}


def missing_masks(data: Any, size: int) -> dict[str, Tensor]:
    """Return the masks `[size]` that the data lack, from its lists; masks that are there come first.

    Warns where both are there and name other training items, forgotten ones aside.

    Raises:
        InvalidInputError: see `split_masks`; only where there is no `train_mask`.
    """
    own = {name for name in MASKS if data.get(name) is not None}
    read = split_masks(data, size, strict="train_mask" not in own)
    if "train_mask" not in own:
        return {name: mask for name, mask in read.items() if name not in own}
    given, listed = data["train_mask"], read.get("train_mask")
    if listed is not None and isinstance(given, Tensor) and given.shape == listed.shape:
        other, gone = given != listed, data.get(GONE)
        number = int((other if gone is None or gone.shape != other.shape else other & ~gone).sum())
        if number:
            named = next(name for part, name, _ in _lists(data) if part == "train_mask")
            warnings.warn(
                f"data.train_mask is the split that is read; {named} differs from it in {number} items: delete it, or "
                "delete the masks if the model was trained with it",
                stacklevel=4,
            )
    return {}


def _lists(data: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield the parts of splits: name of the mask, name of the list, and the list."""
    for name, value in data:
        found = _LIST.fullmatch(name)
        if found is not None and isinstance(value, Tensor | np.ndarray | list | tuple):
            yield _mask_of(found[1] or found[2]), f"data.{name}", value
        if isinstance(value, Mapping) and _DICT.search(name) and value:
            keys = {key: _KEY.fullmatch(key) if isinstance(key, str) else None for key in value}
            if any(key is not None and key[1] == "train" for key in keys.values()):
                yield from (
                    (_mask_of(part[1]), f"data.{name}['{key}']", value[key]) for key, part in keys.items() if part
                )


def _mask_of(part: str) -> str:
    return {"train": "train_mask", "test": "test_mask", "holdout": "test_mask"}.get(part, "val_mask")


def _mask(value: Any, size: int) -> Tensor | None:
    """Return the mask `[size]` that a list stands for; `None` for anything else."""
    try:
        ids = value.detach().cpu() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    except (TypeError, ValueError):
        return None
    if ids.layout != torch.strided or ids.dim() != 1:
        return None
    if ids.dtype == torch.bool:
        return ids.clone() if ids.numel() == size else None
    if not ids.numel():
        return torch.zeros(size, dtype=torch.bool)
    if ids.is_floating_point() or ids.is_complex() or int(ids.min()) < 0 or int(ids.max()) >= size:
        return None
    return torch.zeros(size, dtype=torch.bool).index_fill(0, ids.long(), True)


def _shown(value: Any) -> str:
    if not isinstance(value, Tensor | np.ndarray):
        return type(value).__name__
    said = f"{list(value.shape)} of {value.dtype}"
    if not isinstance(value, Tensor):
        if value.dtype.kind not in "iuf":
            return said
        value = torch.from_numpy(value)
    return said + (f" from {value.min()} to {value.max()}" if value.numel() and value.dtype != torch.bool else "")
