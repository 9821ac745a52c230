"""What a model reads of a graph: its edges, or tensors from outside of the graph that it is given."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch_geometric.data import Data
from torch_geometric.nn import MessagePassing

from gunlearn.errors import GunlearnError, UnsupportedModelError
from gunlearn.nn.kernels.subgraph import gather

if TYPE_CHECKING:
    from gunlearn.tasks.graph.base import GraphTask


def reads_edges(task: GraphTask, model: nn.Module, data: Data, outputs: Tensor) -> bool:
    """Return whether a model's outputs `[num_rows, dim]` differ from those on a graph without edges.

    True where that cannot be told: no edges, outputs that are all the same, a model that needs edges.
    """
    if not data.edge_index.numel() or bool((outputs == outputs[:1]).all()):
        return True
    everything = torch.arange(int(data.num_nodes), device=data.edge_index.device)
    try:
        without = task.encode(model, gather(data, everything, everything[:0], data.edge_index[:, :0]))
    except GunlearnError:
        return True
    return not torch.equal(without, outputs)


def check_edges_are_read(task: GraphTask, model: nn.Module, data: Data, outputs: Tensor) -> None:
    """Refuse a `call` that returns the same on a graph without edges: it reads those of another graph.

    A model called in the usual way is warned of. Both are only so where it has message passing layers.

    Raises:
        UnsupportedModelError: such a `call`.
    """
    if not any(isinstance(module, MessagePassing) for module in model.modules()):
        return
    if reads_edges(task, model, data, outputs):
        return
    if task.call is not None:
        raise UnsupportedModelError(
            f"Expected 'call' ({task.call!r}) to read the edges of its argument 'data' (got the same outputs for a "
            "graph without edges); it must not read a graph from outside the function"
        )
    warnings.warn(
        f"{type(model).__name__} returns the same for a graph without edges: it does not read data.edge_index, or "
        "keeps a graph of its own, in which what is forgotten stays",
        stacklevel=5,
    )


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


def _outside(function: Callable[..., Any], size: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of graphs of `size` nodes that a function reaches beside its arguments, by name."""
    if isinstance(function, functools.partial):
        values = {**{str(k): v for k, v in enumerate(function.args)}, **function.keywords}
        yield from _outside(function.func, size)
    elif inspect.ismethod(function):
        values = {f"self.{name}": value for name, value in vars(function.__self__).items()}
        yield from _outside(function.__func__, size)
    elif inspect.isfunction(function):
        try:
            scope = inspect.getclosurevars(function)
        except ValueError:  # a variable that has no value yet
            return
        defaults = {
            name: p.default for name, p in inspect.signature(function).parameters.items() if p.default is not p.empty
        }
        values = {**scope.globals, **scope.nonlocals, **defaults}
    else:
        values = {f"self.{name}": value for name, value in getattr(function, "__dict__", {}).items()}
    for name, value in values.items():
        if isinstance(value, Data):
            for key in value.keys():  # noqa: SIM118 - iterating a Data yields pairs
                if isinstance(value[key], Tensor) and value[key].numel():
                    yield f"{name}.{key}", value[key]
        elif isinstance(value, Tensor) and _of_graph(value, size):
            yield name, value


def _of_graph(value: Tensor, size: int) -> bool:
    pairs = value.dim() == 2 and value.size(0) == 2 and value.dtype == torch.long
    return value.numel() > 0 and (pairs or (value.dim() > 0 and value.size(0) == size))
