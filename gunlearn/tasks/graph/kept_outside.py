"""What a model keeps beside its state: arrays, helper objects, optimisers, earlier weights, tables of its class."""

from __future__ import annotations

import itertools
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.core.libraries import is_own
from gunlearn.errors import GunlearnError
from gunlearn.seed import isolated_rng
from gunlearn.tasks.graph.enclosed import OutsideReads, tensors_of_a_graph
from gunlearn.tasks.graph.feature_copies import copied_features
from gunlearn.tasks.graph.held_tensors import DEEPEST, MOST_ENTRIES, OF_CLASSES, is_helper, named_tensors
from gunlearn.tasks.graph.node_records import is_ids, node_records
from gunlearn.tasks.graph.reached_values import reached_by_model
from gunlearn.tasks.graph.stored_graphs import pairs_forgotten
from gunlearn.tasks.trial import private_copy

if TYPE_CHECKING:
    from gunlearn.tasks.graph.base import GraphTask


def warn_of_kept_outside(model: nn.Module, task: GraphTask, partition: Any) -> bool:
    """Warn once, by name, of what may hold the forgotten and is no part of the model's state, where no method comes.

    Values by node (under node requests), optimisers, earlier states of the model and models in plain lists (always);
    and what the code of `forward` reads of its class or of variables around it: tensors of the graph's size, and
    forgotten pairs in any other form. Returns whether there are such tensors or pairs.

    Args:
        model: does not change; a copy is called once if there are such tensors.
        task: calls it.
        partition: the resolved request.
    """
    model = getattr(model, "_orig_mod", model)
    size, nodes = int(partition.data.num_nodes), partition.forget_nodes.numel() > 0
    if not nodes and not partition.forget_edge_index.numel() and not partition.forget_features:
        return False
    known = {*named_tensors(model), *node_records(model, size)}
    shapes = {name: value.shape for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    values = list(reached_by_model(model))
    found: dict[str, str] = {}
    seen: set[int] = set()
    for name, value in (*_attributes(model), *((n, v) for n, v in values if not isinstance(v, Tensor | Data))):
        for inner, what in _kept(name, value, size if nodes else -1, shapes, 0, seen):
            if inner not in known:
                found.setdefault(inner, what)
    if found:
        found = {name: what for name, what in found.items() if name not in copied_features(model, partition)}
    pairs = {name: pairs_forgotten(name, value, partition) for name, value in values}
    tensors = {n: t for n, t in tensors_of_a_graph(values, size).items() if size in t.shape or pairs[n]}
    read = dict.fromkeys(_read_around(model, task, partition.retain_data, tensors), "which its code reads")
    for name, count in pairs.items():
        if count and name not in tensors:
            read[name] = f"{count} forgotten pairs, which its code reads"
    found = {name.partition("[")[0]: what for name, what in found.items()} | read
    if found:
        said = ", ".join(f"'{name}' ({what})" for name, what in found.items())
        warnings.warn(
            f"{type(model).__name__} keeps {said} outside its state, where no method comes: what was learned of the "
            "forgotten, or belongs to it, stays there; delete it, or make it anew from result.data",
            stacklevel=4,
        )
    return bool(read)


def _attributes(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield plain attributes of the caller's own modules, and sparse buffers, by name."""
    for path, owner in model.named_modules():
        before = f"{path}." if path else ""
        for name, value in owner.named_buffers(recurse=False):
            if value.layout != torch.strided:
                yield f"{before}{name}", value
        own = any(map(is_own, type(owner).__mro__))
        for name, value in vars(owner).items():
            if name not in OF_CLASSES and (own or isinstance(value, torch.optim.Optimizer)):
                yield f"{before}{name}", value


def _kept(
    name: str, value: Any, size: int, shapes: dict[str, Any], depth: int, seen: set[int]
) -> Iterator[tuple[str, str]]:
    """Yield what a value keeps, by name, with a word of what it is."""
    if value is None or isinstance(value, str | bytes | int | float | bool | type) or depth > DEEPEST:
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, torch.optim.Optimizer) or isinstance(getattr(value, "optimizer", None), torch.optim.Optimizer):
        yield name, "an optimiser, with the averages of gradients"
    elif isinstance(value, nn.Module):
        if any(True for _ in value.parameters()):
            yield name, "a model that is none of its modules"
    elif _is_state(value, shapes):
        yield name, "an earlier state of the model"
    elif _by_node(value, size):
        yield name, "values by node"
    elif isinstance(value, Mapping | list | tuple | set | frozenset | deque):
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, entry in itertools.islice(pairs, MOST_ENTRIES):
            yield from _kept(f"{name}[{key!r}]", entry, size, shapes, depth + 1, seen)
    elif is_helper(value) and not isinstance(value, Data):
        for inner, entry in list(vars(value).items())[:MOST_ENTRIES]:
            yield from _kept(f"{name}.{inner}", entry, size, shapes, depth + 1, seen)


def _is_state(value: Any, shapes: dict[str, Any]) -> bool:
    if not isinstance(value, Mapping) or not shapes:
        return False
    same = [key for key, entry in value.items() if isinstance(entry, Tensor) and shapes.get(key) == entry.shape]
    return len(same) > len(shapes) / 2


def _by_node(value: Any, size: int) -> bool:
    """Return whether a value has `size` entries along some dimension, and is no list of neighbours or pairs."""
    if size < 2:
        return False
    if isinstance(value, Tensor) or hasattr(value, "shape"):
        shape = tuple(value.shape) if isinstance(value.shape, tuple | torch.Size) else ()
        return size in shape and shape != (size, size) and not _is_ids(value)
    if isinstance(value, Mapping | list | tuple | deque):
        entries = value.values() if isinstance(value, Mapping) else value
        return len(value) == size and not all(type(entry) is int or is_ids(entry) for entry in entries)
    return False


def _is_ids(value: Any) -> bool:
    """Return whether a value is an integer table, such as neighbours by node: see `stored_graphs`."""
    integers = isinstance(value, np.ndarray) and value.dtype.kind in "iu"
    return integers or (isinstance(value, Tensor) and not value.is_floating_point())


@torch.no_grad()
def _read_around(model: nn.Module, task: GraphTask, data: Data, tensors: dict[str, Tensor]) -> list[str]:
    """Return the names of tensors of classes and of variables outside that are read in one pass."""
    if not tensors:
        return []
    probe = private_copy(model, task).eval()
    try:
        with isolated_rng(), OutsideReads(tensors) as watched:
            task.encode(probe, data.clone())
    except GunlearnError:
        return []
    return sorted(watched.read)
