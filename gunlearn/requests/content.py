"""Whether data are still those that a method read when it took a request out of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from gunlearn.core.checksums import print_of
from gunlearn.core.digest import content_hash
from gunlearn.errors import ChangedDataError
from gunlearn.requests.prepared import known_prints

#: Lists that data sets keep beside their items: labels, and which items of another data set they are.
_LISTS = ("targets", "labels", "y", "indices")
_KINDS = ("data", "retain_data")  # attributes of a partition
#: Of each partition that a method ran on: names of tensors and arrays in its data, with what tells their content.
_READ: WeakKeyDictionary[Any, dict[str, dict[str, Any]]] = WeakKeyDictionary()


def note_content(partition: Any) -> None:
    """Take note of the data of a partition as they are now, unless an earlier run did; `check_content` compares."""
    if partition not in _READ:
        memory: dict[int, Any] = {}
        _READ[partition] = {kind: _prints(getattr(partition, kind, None), memory) for kind in _KINDS}


def check_content(partition: Any) -> None:
    """Refuse data that were edited since a method ran on them; what was added counts for nothing.

    Raises:
        ChangedDataError: a tensor or an array of the data is gone, or holds other values.
    """
    changed, memory = {}, dict[int, Any]()
    for kind, before in _READ.get(partition, {}).items():
        held = _held(getattr(partition, kind, None))
        for name, content in before.items():
            if name not in held:
                changed[name] = "which is gone"
            elif _print(held[name], memory) != content:
                changed[name] = "other values"
    if changed:
        said = ", ".join(f"data.{name}: {how}" for name, how in changed.items())
        raise ChangedDataError(
            f"Expected data that have not changed since 'unlearn' read them (got {said}); evaluate before they are "
            "edited, or edit a copy, data.clone(), or unlearn again on the edited data"
        )


def same_content(one: Any, other: Any) -> bool:
    """Return whether two partitions are of the same data, as far as their tensors and arrays tell.

    What one of the two has beside counts for nothing.
    """
    if one.data is other.data:
        return True
    found = [_READ[of]["data"] if of in _READ else _prints(of.data, {}) for of in (one, other)]
    if not any(found):  # rows of texts
        return content_hash(one.data) == content_hash(other.data)
    return all(found[1][name] == value for name, value in found[0].items() if name in found[1])


def _held(data: Any) -> dict[str, Any]:
    """Return the tensors and arrays of a graph or a table, by name, and those that a data set in a table holds.

    What a data set reads from files is not among them.
    """
    graph = hasattr(data, "keys")
    values = {name: data[name] for name in data.keys()} if graph else getattr(data, "__dict__", {})  # noqa: SIM118
    held = {name: value for name, value in values.items() if isinstance(value, Tensor | np.ndarray)}
    columns = {name: value.dataset for name, value in values.items() if hasattr(value, "dataset")}
    return held | {f"{name}{at}": value for name, of in columns.items() for at, value in _of_dataset(of)}


def _of_dataset(dataset: Any, at: str = ".dataset") -> Iterator[tuple[str, Any]]:
    """Yield the tensors, arrays and labels that a map-style data set keeps of its items, those of its parts too.

    These have an entry per item: a data set may count, or keep, what was read.
    """
    for name, value in getattr(dataset, "__dict__", {}).items():
        place = f"{at}.{name}"
        if isinstance(value, Dataset):
            yield from _of_dataset(value, place)
        elif isinstance(value, list | tuple) and any(isinstance(entry, Tensor | Dataset) for entry in value):
            for k, entry in enumerate(value):
                if isinstance(entry, Dataset):
                    yield from _of_dataset(entry, f"{place}[{k}]")
                elif isinstance(entry, Tensor) and _per_item(entry, dataset):
                    yield f"{place}[{k}]", entry
        elif (isinstance(value, Tensor | np.ndarray) or name in _LISTS) and _per_item(value, dataset):
            yield place, value


def _per_item(value: Any, dataset: Any) -> bool:
    return len(getattr(value, "shape", (1,))) > 0 and hasattr(value, "__len__") and len(value) == len(dataset)


def _prints(data: Any, memory: dict[int, Any]) -> dict[str, Any]:
    known = known_prints(data)  # prepared data were checked when the request was resolved
    return {name: known[name] if name in known else _print(value, memory) for name, value in _held(data).items()}


def _print(value: Any, memory: dict[int, Any]) -> Any:
    """Return the print of a value, computed once for both parts of a partition."""
    if id(value) not in memory:
        memory[id(value)] = print_of(np.asarray(value) if isinstance(value, list | tuple) else value)
    return memory[id(value)]
