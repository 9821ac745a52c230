"""Models that earlier requests on a prepared graph have tried: a method that calls none need not try them again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from gunlearn.core.behaviour import code_of
from gunlearn.core.checks import is_finite
from gunlearn.core.checksums import print_of
from gunlearn.core.digest import content_hash
from gunlearn.requests.prepared import facts_of
from gunlearn.tasks.base import Task

#: Keys of models by the number of the object, while nobody changes them; see `one_key_each`.
_KEYS: ContextVar[dict[int, tuple[nn.Module, str]] | None] = ContextVar("keys of models", default=None)
#: Models that `gunlearn.train` made, and what `gunlearn.unlearn` made of these, with the versions of their weights.
_TRAINED: WeakKeyDictionary[nn.Module, tuple[int, ...]] = WeakKeyDictionary()
_LIBRARIES = ("torch.nn.", "torch_geometric.", "gunlearn.nn.")
_LINEAR = "gunlearn.nn.layers.linear_head.LinearHead"
_OF_MODULES = {*vars(nn.Module()), "inspector"}  # weights and hooks are read otherwise; PyG's inspector has only names


@contextmanager
def one_key_each() -> Iterator[None]:
    """Inside the block, or the function that it decorates, the key of each model that is asked for stays the same."""
    token = _KEYS.set({})
    try:
        yield
    finally:
        _KEYS.reset(token)


def model_key(model: nn.Module, task: Task) -> str:
    """Return a hash of all that decides what a task reads of a model: weights, attributes, code, and how it is called.

    Of a `LinearHead` the values of weights do not count, so that heads that requests made of one another are one.
    Whether the model trains does not count, so that copies for evaluation have that of the model.
    """
    model, kept = getattr(model, "_orig_mod", model), _KEYS.get()
    if kept is not None and id(model) in kept:
        return kept[id(model)][1]
    own = [
        (name, type(module), sorted((k, v) for k, v in vars(module).items() if k not in _OF_MODULES))
        for name, module in model.named_modules()
    ]
    called = {name: repr(value) for name, value in sorted(vars(task).items())}
    values = (*model.state_dict().items(), *model.named_buffers())
    linear = _kind(model) == _LINEAR  # what holds for some finite weights holds for all
    state = [
        (name, (value.shape, value.dtype, is_finite(value)) if linear else print_of(value)) for name, value in values
    ]
    key = content_hash([state, own, code_of(model), type(task), called])
    if kept is not None:
        kept[id(model)] = model, key
    return key


def share_key(model: nn.Module, copy: nn.Module) -> None:
    """Give a private copy of a model, which computes the same, the model's key inside `one_key_each`."""
    model, kept = getattr(model, "_orig_mod", model), _KEYS.get()
    if kept is not None and id(model) in kept:
        kept[id(copy)] = copy, kept[id(model)][1]


def note_trained(model: nn.Module, task: Task) -> None:
    """Take note that a model was trained as the task calls it, unless that is a `call` of the caller's own."""
    if getattr(task, "call", None) is None:
        _TRAINED[model] = _versions(model)


def is_trained_here(model: nn.Module) -> bool:
    """Return whether a model was trained as a task calls models, and has not changed since (`note_trained`)."""
    return _TRAINED.get(model) == _versions(model)


def _versions(model: nn.Module) -> tuple[int, ...]:
    return tuple(parameter._version for parameter in model.parameters())


def is_known(model: nn.Module, task: Task, partition: Any) -> bool:
    """Return whether the trial pass of an earlier request shows all that one of this request would show.

    It was made for a request of the same kind, on the same graph or one that requests made of it, with the same
    weights; and if this request leaves a node without edges, the earlier one had such a node: what a layer computes of
    no neighbours is the one thing that may be infinite on the graph that is left, and nowhere else. That is so of
    modules of torch, PyG and this package; of a class of anybody else's nothing is known, and it is tried each time.
    """
    facts = facts_of(partition.data)
    if facts is None or model is None or not all(map(_is_of_a_library, model.modules())):
        return False
    seen = facts.get(("trial", partition.forgets, model_key(model, task)))
    return seen is not None and not bool((lonely_ends(partition) & ~seen).any())


def _kind(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _is_of_a_library(module: nn.Module) -> bool:
    return _kind(module).startswith(_LIBRARIES)


def take_note_of(model: nn.Module, task: Task, partition: Any) -> None:
    """Keep that the trial pass of a request went well, and had nothing to say."""
    facts = facts_of(partition.data)
    if facts is None:
        return
    data, at = partition.retain_data, ("trial", partition.forgets, model_key(model, task))
    size = int(data.num_nodes)
    seen = torch.stack([(torch.bincount(ends, minlength=size) == 0).any() for ends in data.edge_index]).cpu()
    facts[at] = seen | facts[at] if at in facts else seen


def lonely_ends(partition: Any) -> Tensor:
    """Return whether a node of a forgotten edge has no edge any more that it begins, and none that it ends: `[2]`."""
    graph, nodes = partition.graph, partition.forget_edge_index.unique()
    if graph.index is None:
        return torch.ones(2, dtype=torch.bool)
    lonely, gone = [], partition.forget_columns
    for ends in (graph.index.leaving, graph.index.arriving)[: 2 if graph.index.one_way else 1]:
        columns, at = ends(nodes)
        had = torch.bincount(at, minlength=nodes.numel())
        lost = torch.bincount(at[torch.isin(columns, gone)], minlength=nodes.numel())
        lonely.append(((had > 0) & (had == lost)).any())
    return torch.stack(lonely).expand(2).cpu()  # in an undirected graph both are one
