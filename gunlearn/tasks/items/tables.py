"""Independent items in the forms that users have: tensors, a map-style data set, a loader."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset, default_collate

from gunlearn.errors import InvalidInputError, InvalidTypeError


class ItemTable(dict[str, Any]):
    """Columns by name, `x` and `y` among them; columns are attributes too.

    Args:
        back: turns a table with fewer rows into the user's own form.
        columns: tensors `[num_items, ...]`, or `Column`s of a data set.
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


class Column:
    """One of the two entries of each item of a map-style data set; items are loaded when they are read.

    Args:
        dataset: `dataset[i]` is a pair of an input and an integer label.
        place: 0 for inputs, 1 for labels.
    """

    def __init__(self, dataset: Any, place: int) -> None:
        self.dataset, self.place = dataset, place

    @property
    def shape(self) -> tuple[int]:
        """Number of items."""
        return (len(self.dataset),)

    def __len__(self) -> int:
        return len(self.dataset)

    def __repr__(self) -> str:
        # The same in every process.
        return f"Column({type(self.dataset).__name__} of {len(self)}, {self.place})"

    def __getitem__(self, index: Tensor) -> Tensor:
        return load_items(self.dataset, index)[self.place]

    def select(self, mask: Tensor) -> Column:
        """Return the column of the items that a boolean mask `[num_items]` keeps."""
        return Column(Subset(self.dataset, mask.nonzero().view(-1).tolist()), self.place)


def load_items(dataset: Any, index: Tensor) -> tuple[Tensor, Tensor]:
    """Load items `[k]` of a map-style data set: inputs `[k, ...]` and labels `[k]`."""
    chosen = index.nonzero().view(-1) if index.dtype == torch.bool else index
    items = [dataset[i] for i in chosen.tolist()]
    if any(not isinstance(item, list | tuple) or len(item) != 2 for item in items):
        raise InvalidInputError("Expected items that are pairs of an input and a label (got others)")
    x, y = default_collate(items)
    y = torch.as_tensor(y)
    if y.is_floating_point() or y.dim() != 1:
        raise InvalidInputError(f"Expected one integer label per item (got {y.dtype} of shape {tuple(y.shape)})")
    return x, y.long()


def rows_at(data: Any, index: Tensor) -> tuple[Any, Any]:
    """Return inputs and labels of items `[k]`, each loaded once."""
    x = data.x
    return load_items(x.dataset, index) if isinstance(x, Column) else (x[index], data.y[index])


def as_table(data: Any) -> Any:
    """Return a table of items, or `data` itself where it has `x` and `y` already.

    Args:
        data: an object with `x` and `y` (PyG's `Data`), a pair of tensors, a map-style data set of pairs, or a loader
            of one. All items of a data set are for training; held-out ones belong into a data set of their own.

    Raises:
        InvalidTypeError: anything else.
    """
    if isinstance(data, ItemTable) or (hasattr(data, "x") and hasattr(data, "y")):
        return data
    if isinstance(data, DataLoader):
        return as_table(data.dataset)
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        return ItemTable(lambda table: (table.x, table.y), x=data[0], y=data[1])
    tensors = getattr(data, "tensors", None)  # a TensorDataset
    if isinstance(tensors, tuple) and len(tensors) == 2:
        return ItemTable(lambda table: type(data)(table.x, table.y), x=tensors[0], y=tensors[1])
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, str | dict | list):
        return ItemTable(lambda table: table.x.dataset, x=Column(data, 0), y=Column(data, 1))
    raise InvalidTypeError(
        "Expected items as a pair of tensors, a map-style data set of pairs, a loader of one, or an object with 'x' "
        f"and 'y' (got {type(data).__name__})"
    )
