"""Graphs that a caller's own function reads beside its arguments."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch_geometric.data import Data

from gunlearn.errors import UnsupportedModelError

if TYPE_CHECKING:
    from gunlearn.tasks.graph.base import GraphTask

_ENTRIES, _DEEPEST = 16, 3  # of a collection that are looked at; functions that call functions


def check_own_argument(task: GraphTask, model: nn.Module, data: Data) -> None:
    """Refuse a `call` that reads features, or other tensors of a graph, from outside the function.

    Its enclosed and global variables are watched during one pass: graphs, and tensors with a row per node or a column
    per edge. Others, such as weights of classes, are the caller's own business.

    Raises:
        UnsupportedModelError: it does; the message names the variable.
    """
    call = task.call
    outside = {} if call is None else dict(_outside(call.function, int(data.num_nodes)))
    if not outside:
        return
    given = data.clone()  # the graph shares tensors with the caller's
    with _Watched({_place(value): name for name, value in outside.items()}) as watched:
        task.encode(model, given)
    if watched.read:
        raise UnsupportedModelError(
            f"Expected 'call' ({call!r}) to read its argument 'data' alone (got {', '.join(sorted(watched.read))} of "
            "the code around it, in which what is forgotten stays); use the function's own argument, as in "
            "call=lambda model, data: model(data.x, data.edge_index)"
        )


class _Watched(TorchDispatchMode):
    """Notes which tensors, named by where they are stored, are read inside the block."""

    def __init__(self, names: dict[Any, str]) -> None:
        super().__init__()
        self.names, self.read = names, set[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor):
                name = self.names.get(_place(value))
                if name is not None:
                    self.read.add(name)
        return func(*args, **(kwargs or {}))


def _place(value: Tensor) -> Any:
    """Return where a tensor is stored; sparse ones have no storage."""
    return value.untyped_storage().data_ptr() if value.layout == torch.strided else id(value)


def _outside(function: Any, size: int, depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of graphs of `size` nodes that a function reaches beside its arguments, by name."""
    values: dict[str, Any] = {}
    if isinstance(function, functools.partial):
        values = {**{str(k): v for k, v in enumerate((function.func, *function.args))}, **function.keywords}
    elif inspect.ismethod(function):
        values = {f"self.{name}": value for name, value in getattr(function.__self__, "__dict__", {}).items()}
        yield from _outside(function.__func__, size, depth)
    elif inspect.isfunction(function):
        try:
            scope = inspect.getclosurevars(function)
        except ValueError:  # a variable that has no value yet
            return
        parameters = inspect.signature(function).parameters.values()
        values = {**scope.globals, **scope.nonlocals, **{p.name: p.default for p in parameters}}
    elif not isinstance(function, type):
        values = {f"self.{name}": value for name, value in getattr(function, "__dict__", {}).items()}
    for name, value in values.items():
        if isinstance(value, dict | list | tuple):
            entries = value.items() if isinstance(value, dict) else enumerate(value)
            for key, entry in list(entries)[:_ENTRIES]:
                yield from _tensors_in(f"{name}[{key!r}]", entry, size)
        elif isinstance(value, functools.partial | FunctionType) and depth < _DEEPEST and not _foreign(value):
            yield from _outside(value, size, depth + 1)
        else:
            yield from _tensors_in(name, value, size)


def _tensors_in(name: str, value: Any, size: int) -> Iterator[tuple[str, Tensor]]:
    """Yield a tensor of a graph of `size` nodes, or those of a graph."""
    if isinstance(value, Data):
        for key in value.keys():  # noqa: SIM118 - iterating a Data yields pairs
            if isinstance(value[key], Tensor) and value[key].numel():
                yield f"{name}.{key}", value[key]
    elif isinstance(value, Tensor) and value.numel():
        pairs = value.dim() == 2 and value.size(0) == 2 and value.dtype == torch.long
        if pairs or (value.dim() > 0 and value.size(0) == size):
            yield name, value


def _foreign(function: Any) -> bool:
    """Return whether a function is a library's: it knows no graph of the caller's."""
    return str(getattr(function, "__module__", "")).startswith(("torch", "gunlearn", "numpy"))
