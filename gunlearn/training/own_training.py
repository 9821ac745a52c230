"""A caller's own training function: it gets a copy of the data, and must read it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.core.detached import own_form, private
from gunlearn.errors import InvalidInputError, UnsupportedModelError

_REMEDY = "train on the first argument of train(data, seed)"


def trained_by(train: Callable[[Any, int], nn.Module], data: Any, seed: int, before: Any = None) -> nn.Module:
    """Return what `train(data, seed)` returns; it gets a copy of the data, which it may change.

    Args:
        train: the caller's function.
        data: what it is to train on.
        seed: its second argument.
        before: the same data with what is left out, which it must not train on; `None` where nothing is left out.

    Raises:
        UnsupportedModelError: it returns no module.
        InvalidInputError: it read nothing of a graph that it was given.

    Warns:
        UserWarning: it read none of the attributes in which the graph differs from `before`.
    """
    given, read = _watched(private(data))
    model = train(own_form(given), seed)
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"Expected 'train' to return a torch module (got {type(model).__name__})")
    if read is None:
        return model
    if not read:
        raise InvalidInputError(
            "Expected 'train' to train on the data that it is given, without what is forgotten (got one that read "
            f"nothing of them, so that it trained on others, such as a variable around it); {_REMEDY}. Models that "
            "were retrained before go in as references=[...]"
        )
    new = [] if before is None else _changed(data, before)
    if new and not read & set(new):
        warnings.warn(
            f"'train' read {', '.join(f'data.{name}' for name in sorted(read))} of the data that it was given, and not "
            f"{' or '.join(f'data.{name}' for name in new)}, where what is forgotten is left out: if the model reads "
            f"that from another graph, it was trained on what is forgotten; {_REMEDY}",
            stacklevel=2,
        )
    return model


def _changed(data: Any, before: Any) -> list[str]:
    """Return the tensors in which a graph differs from the one before, by what they hold: a copy is no difference."""
    names = [name for name in data.keys() if isinstance(data[name], Tensor)]  # noqa: SIM118 - iterating yields pairs
    return sorted(name for name in names if not _same(before.get(name), data[name]))


def _same(before: Any, value: Tensor) -> bool:
    if before is value:
        return True
    if not isinstance(before, Tensor) or before.layout != value.layout or before.shape != value.shape:
        return False
    if value.layout != torch.strided:
        return False  # a sparse one that was made anew was changed
    return torch.equal(before, value)


def _watched(data: Any) -> tuple[Any, set[str] | None]:
    """Return a graph whose attributes note, in the set beside it, that they were read; `None` for other data."""
    store = getattr(data, "_store", None)
    mapping = getattr(store, "_mapping", None)
    if store is None or not isinstance(mapping, dict):
        return data, None
    noted = _Noted(mapping)
    store._mapping = noted
    return data, noted.read


class _Noted(dict[str, Any]):
    """A dictionary that notes which values were read, its copies included; another process gets a plain one."""

    def __init__(self, values: dict[str, Any], read: set[str] | None = None) -> None:
        super().__init__(values)
        self.read = set() if read is None else read

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)  # what is not there was not read
        self.read.add(key)
        return value

    def __iter__(self) -> Iterator[str]:
        """Return an iterator; with one of its own, `dict(d)`, `{**d}` and `f(**d)` read by `__getitem__`."""
        return super().__iter__()

    def get(self, key: str, default: Any = None) -> Any:
        if key in self:
            self.read.add(key)
        return super().get(key, default)

    def pop(self, key: str, *default: Any) -> Any:
        self.read.add(key)
        return super().pop(key, *default)

    def _all(self) -> None:
        self.read.update(self)

    def values(self) -> Any:
        self._all()
        return super().values()

    def items(self) -> Any:
        self._all()
        return super().items()

    def __copy__(self) -> _Noted:
        return _Noted(dict(super().items()), self.read)

    def copy(self) -> _Noted:
        return self.__copy__()

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        self._all()
        return copy.deepcopy(dict(super().items()), memo)

    def __reduce__(self) -> Any:
        self._all()
        return dict, (dict(super().items()),)
