"""Graphs that a caller's own function reads beside its arguments."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch_geometric.data import Data

from gunlearn.errors import UnsupportedModelError
from gunlearn.nn.kernels.memo import nothing_remembered
from gunlearn.tasks.graph.reached_values import reached_by

if TYPE_CHECKING:
    from gunlearn.tasks.graph.base import GraphTask


def check_own_argument(task: GraphTask, model: nn.Module, data: Data) -> None:
    """Refuse a `call` that reads features, or other tensors of a graph, from outside the function.

    Its enclosed and global variables are watched during one pass: graphs, and tensors with a row per node or a column
    per edge. Others, such as weights of classes, are the caller's own business.

    Raises:
        UnsupportedModelError: it does; the message names the variable.
    """
    call = task.call
    around = {} if call is None else tensors_of_a_graph(reached_by(call.function), int(data.num_nodes))
    if not around:
        return
    given = data.clone()  # the graph shares tensors with the caller's
    with OutsideReads(around) as watched:
        task.encode(model, given)
    if watched.read:
        raise UnsupportedModelError(
            f"Expected 'call' ({call!r}) to read its argument 'data' alone (got {', '.join(sorted(watched.read))} of "
            "the code around it, in which what is forgotten stays); use the function's own argument, as in "
            "call=lambda model, data: model(data.x, data.edge_index)"
        )


class OutsideReads(TorchDispatchMode):
    """Notes which of some tensors, by name, are read inside the block; what was derived from them is made anew."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.names, self.read = {_stored_at(value): name for name, value in tensors.items()}, set[str]()
        self.stack = ExitStack()

    def __enter__(self) -> Any:
        self.stack.enter_context(nothing_remembered())
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.stack.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor):
                name = self.names.get(_stored_at(value))
                if name is not None:
                    self.read.add(name)
        return func(*args, **(kwargs or {}))


def _stored_at(value: Tensor) -> Any:
    """Return where a tensor is stored; sparse ones have no storage."""
    return value.untyped_storage().data_ptr() if value.layout == torch.strided else id(value)


def tensors_of_a_graph(values: Iterable[tuple[str, Any]], size: int) -> dict[str, Tensor]:
    """Return, by name, the tensors and arrays with a dimension of `size` nodes, and lists of pairs `[2, k]`, `[k, 2]`.

    Arrays come as tensors that share their memory.
    """
    found = {}
    for name, value in values:
        if isinstance(value, np.ndarray) and value.dtype.kind in "iuf" and value.dtype.isnative and value.size:
            value = torch.from_numpy(value) if value.flags.writeable and min(value.strides, default=0) >= 0 else None
        if isinstance(value, Tensor) and value.numel():
            pairs = value.dim() == 2 and 2 in value.shape and not value.is_floating_point()
            if pairs or size in value.shape:
                found[name] = value
    return found
