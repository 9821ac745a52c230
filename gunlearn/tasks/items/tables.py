"""Independent items in the forms that users have: tensors, a map-style data set, a loader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
)

from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.requests.row_numbers import is_left, mark_left
from gunlearn.tasks.items.columns import Column


class ItemTable(dict[str, Any]):
    """Columns by name, `x` and `y` among them; columns are attributes too.

    Args:
        back: turns a table with fewer rows into the user's own form.
        columns: tensors `[num_items, ...]`, or `Column`s of a data set; `batch_size`, a number, says how many items a
            step reads where nothing else says it.
    """

    back: Callable[[ItemTable], Any]

    def __init__(self, back: Callable[[ItemTable], Any] = lambda table: table, **columns: Any) -> None:
        super().__init__(**columns)
        object.__setattr__(self, "back", back)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __copy__(self) -> ItemTable:
        return ItemTable(self.back, **self)

    def __repr__(self) -> str:
        shown = [f"{k}={list(v.shape) if isinstance(v, Tensor) else v!r}" for k, v in self.items() if k != "item_id"]
        return f"ItemTable({', '.join(shown)})"

    def to(self, device: torch.device | str) -> ItemTable:
        """Return the table with its tensors on a device; data sets load their items where they do."""
        moved = ItemTable(self.back, **{k: v.to(device) if isinstance(v, Tensor) else v for k, v in self.items()})
        return mark_left(moved) if is_left(self) else moved


def rows_at(data: Any, index: Tensor) -> tuple[Any, Any]:
    """Return inputs and labels of items `[k]`, each loaded once."""
    x = data.x
    return x.load(index) if isinstance(x, Column) else (x[index], data.y[index].long())


def as_table(data: Any) -> Any:
    """Return a table of items, or `data` itself where it has `x` and `y` already.

    Args:
        data: an object with `x` and `y` (PyG's `Data`), a pair of tensors, a map-style data set of pairs, or a loader
            of one, whose batch size and `collate_fn` are used. All items of a data set are for training; see
            `item_table` for held-out ones. Where it says the files of its items (`samples`), requests can name them.

    Raises:
        InvalidInputError: a loader that reads its items in an order or choice of its own, or a data set without items.
        InvalidTypeError: anything else.
    """
    if isinstance(data, DataLoader):
        return _of_loader(data)
    if isinstance(data, ItemTable) or _has_columns(data):
        return data
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        return ItemTable(lambda table: (table.x, table.y), x=data[0], y=data[1])
    if isinstance(data, TensorDataset) and len(data.tensors) == 2:
        x, y = data.tensors
        return ItemTable(lambda table: type(data)(table.x, table.y), x=x, y=y)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, str | dict | list | tuple):
        return _of_dataset(data)
    raise InvalidTypeError(
        "Expected items as a pair of tensors, a map-style data set of pairs, a loader of one, or an object with 'x' "
        f"and 'y' (got {_said(data)})"
    )


def item_table(train: Any, val: Any = None, test: Any = None, batch_size: int | None = None) -> ItemTable:
    """Return one table of map-style data sets for training, validation and test, with masks of the held-out items.

    Args:
        train: items to train on.
        val: items to choose epochs on.
        test: items for figures alone.
        batch_size: items per step where a method or `train` names no other number; `None` reads all.

    Example:
        >>> data = item_table(train=torchvision_train, test=torchvision_test, batch_size=128)  # doctest: +SKIP
    """
    given = {name: part for name, part in (("train", train), ("val", val), ("test", test)) if part is not None}
    for name, part in given.items():
        if isinstance(part, DataLoader) or not (hasattr(part, "__getitem__") and hasattr(part, "__len__")):
            raise InvalidTypeError(f"Expected a map-style data set for '{name}' (got {type(part).__name__})")
    table = _of_dataset(ConcatDataset(list(given.values())) if len(given) > 1 else train)
    number = torch.tensor([k for k, part in enumerate(given.values()) for _ in range(len(part))])
    masks = {f"{name}_mask": number == k for k, name in enumerate(given)} if len(given) > 1 else {}
    size = {} if batch_size is None else {"batch_size": batch_size}
    columns: dict[str, Any] = {**table, **masks, **size}
    return ItemTable(**columns)


def _has_columns(data: Any) -> bool:
    """Return whether an object is columns; a data set that keeps an `x` may transform it: its items are read."""
    return not isinstance(data, Dataset) and hasattr(data, "x") and hasattr(data, "y")


def _of_dataset(data: Any, collate: Callable[[list[Any]], Any] = default_collate) -> ItemTable:
    if not len(data):
        raise InvalidInputError(f"Expected a data set with items (got {type(data).__name__} without any)")
    files = _files(data)
    return ItemTable(
        lambda table: table.x.dataset,
        x=Column(data, 0, collate),
        y=Column(data, 1, collate),
        **({} if files is None else {"item_id": files}),
    )


def _of_loader(loader: DataLoader) -> ItemTable:
    """Return the table of a loader's data set, read in batches of its size by its `collate_fn`."""
    plain = type(loader.sampler) in (SequentialSampler, RandomSampler) and not getattr(
        loader.sampler, "replacement", False
    )
    chosen = getattr(loader.sampler, "num_samples", len(loader.dataset)) != len(loader.dataset)  # type: ignore[arg-type]
    own = loader.batch_sampler is not None and type(loader.batch_sampler) is not BatchSampler
    if own or not plain or chosen:
        got = type(loader.batch_sampler if own else loader.sampler).__name__
        raise InvalidInputError(
            f"Expected a loader that reads each item of its data set once in a pass (got {got}): unlearning reads the "
            "parts of a request in an order of its own; pass the data set, and 'batch_size', or a Subset of it"
        )
    collate = loader.collate_fn
    if loader.batch_size is None:  # without batches a loader only converts items
        collate = default_collate
    inner = as_table(loader.dataset) if collate is default_collate else _of_dataset(loader.dataset, collate)
    shuffle = isinstance(loader.sampler, RandomSampler)
    size = {} if loader.batch_size is None else {"batch_size": loader.batch_size}

    def back(table: ItemTable) -> DataLoader:
        more: dict[str, Any] = {"batch_size": loader.batch_size, "shuffle": shuffle, "num_workers": loader.num_workers}
        return DataLoader(inner.back(table), collate_fn=loader.collate_fn, drop_last=loader.drop_last, **more)

    return ItemTable(back, **{**dict(inner), **size})


def _files(dataset: Any) -> list[str] | None:
    """Return the file of each item below the data set's root, `/` between folders; `None` where none are known."""
    if isinstance(dataset, Subset):
        inner = _files(dataset.dataset)
        return None if inner is None else [inner[i] for i in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        parts = [_files(part) for part in dataset.datasets]
        return None if any(part is None for part in parts) else [name for part in parts for name in part or ()]
    samples, root = getattr(dataset, "samples", None), getattr(dataset, "root", None)
    if not isinstance(samples, list | tuple) or len(samples) != len(dataset) or root is None:
        return None
    names = []
    for sample in samples:
        path = sample[0] if isinstance(sample, list | tuple) and sample else sample
        if not isinstance(path, str | PurePath):
            return None
        path = PurePath(path)
        names.append((path.relative_to(root) if path.is_relative_to(root) else path).as_posix())
    return names


def _said(data: Any) -> str:
    kind = type(data).__name__
    return f"a {kind} of {', '.join(type(part).__name__ for part in data)}" if isinstance(data, tuple) else kind
