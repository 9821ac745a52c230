"""The tensors that a model holds, by name: its state, plain attributes, and what collections and objects on it hold."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch_geometric.data import Data
from torch_geometric.nn import MessagePassing

from gunlearn.core.libraries import is_own
from gunlearn.nn.attach.message_layers import CACHES
from gunlearn.tasks.graph.node_records import as_tensor

_PLAIN = {bool, int, float, str, type(None), dict, OrderedDict, set, list, tuple}
DEEPEST, MOST_ENTRIES = 4, 64  # of nested collections and objects; entries of each that are looked at


class _Bare(MessagePassing):
    """A layer that is nothing more: making a `MessagePassing` itself would replace its `propagate` for all layers."""


#: Attributes that the classes of torch and PyG themselves set.
OF_CLASSES = frozenset({*vars(nn.Module()), *vars(_Bare()), *CACHES})


def named_tensors(model: nn.Module) -> dict[str, tuple[nn.Module, Tensor]]:
    """Return owner and value of every dense tensor of a model by name, tied ones once.

    Plain attributes count too, arrays and those of a helper object among them; caches of layers and integer buffers
    that are not saved (structure, no state) do not.
    """
    found: dict[str, tuple[nn.Module, Tensor]] = {}
    seen: set[int] = set()
    for path, owner in model.named_modules():
        held: dict[str, Tensor] = {
            **dict(owner.named_parameters(recurse=False)),
            **dict(owner.named_buffers(recurse=False)),
        }
        held |= _plain_tensors(owner)
        helpers = [(name, value) for name, value in _attributes(owner) if is_helper(value)]
        for name, helper in helpers:
            for inner, value in _plain_tensors(helper).items():
                if id(value) not in seen and value.layout == torch.strided:
                    seen.add(id(value))
                    found[f"{path}.{name}.{inner}" if path else f"{name}.{inner}"] = helper, value
        for name, value in held.items():
            if id(value) in seen or is_lazy(value) or value.layout != torch.strided:
                continue
            if name in getattr(owner, "_non_persistent_buffers_set", ()) and not value.is_floating_point():
                continue
            seen.add(id(value))
            found[f"{path}.{name}" if path else name] = owner, value
    return found


def held_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the dense tensors of `named_tensors`, and those in collections, graphs and objects on a model, by name.

    Only what belongs to the model itself: what its class, or the code around it, holds belongs to others too.
    """
    found = {name: value for name, (_, value) in named_tensors(model).items()}
    for path, owner in model.named_modules():
        for name, value in vars(owner).items():
            if name in OF_CLASSES or isinstance(value, Tensor):
                continue
            for inner, entry in within(f"{path}.{name}" if path else name, value):
                tensor = as_tensor(entry)
                if tensor is not None and tensor.layout == torch.strided:
                    found.setdefault(inner, tensor)
    return found


def within(
    name: str, value: Any, depth: int = 0, seen: set[int] | None = None, modules: bool = False
) -> Iterator[tuple[str, Any]]:
    """Yield a value and what it holds, by name: entries of collections and graphs, attributes of helper objects.

    Modules are left out, unless `modules` asks for them.
    """
    seen = set() if seen is None else seen
    plain = value is None or isinstance(value, str | bytes | int | float | bool | type)
    plain = plain or (isinstance(value, nn.Module) and not modules)
    if plain or id(value) in seen or depth > DEEPEST:
        return
    seen.add(id(value))
    yield name, value
    entries: Any = ()
    if isinstance(value, Data):
        entries = [(f"{name}.{key}", value[key]) for key in value.keys()]  # noqa: SIM118 - iterating yields pairs
    elif isinstance(value, Mapping):
        entries = ((f"{name}[{key!r}]", entry) for key, entry in value.items())
    elif isinstance(value, list | tuple):
        entries = ((f"{name}[{place}]", entry) for place, entry in enumerate(value))
    elif is_helper(value):
        entries = ((f"{name}.{key}", entry) for key, entry in list(vars(value).items()))
    for inner, entry in itertools.islice(entries, MOST_ENTRIES):
        yield from within(inner, entry, depth + 1, seen, modules)


def is_helper(value: Any) -> bool:
    """Return whether an attribute of a module is an object of the caller's own class, no module."""
    return (
        bool(getattr(value, "__dict__", None))
        and not isinstance(value, nn.Module | type)
        and not callable(value)
        and is_own(type(value))
    )


def _plain_tensors(owner: Any) -> dict[str, Tensor]:
    """Return the tensors among an object's plain attributes, and float arrays as tensors that share their memory."""
    held = {name: as_tensor(value) for name, value in _attributes(owner) if name not in CACHES}
    return {name: value for name, value in held.items() if value is not None}


def _attributes(owner: Any) -> list[tuple[str, Any]]:
    """Return an object's attributes by name but those of the plain types, which most of a module's are."""
    return [(name, value) for name, value in vars(owner).items() if type(value) not in _PLAIN]
