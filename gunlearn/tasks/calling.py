"""How a model is called: the caller's own function or our convention, and what is said where that fails."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gunlearn.core.behaviour import code_hash
from gunlearn.core.digest import content_hash
from gunlearn.errors import GunlearnError, InvalidTypeError, UnsupportedModelError
from gunlearn.requests.graph_tensors import GONE

if TYPE_CHECKING:
    from torch_geometric.data import Data


_ALIASES = {"h": "x", "feat": "x", "feats": "x", "features": "x", "ei": "edge_index", "edges": "edge_index"}


class Called:
    """A caller's function `call(model, data)` or `decode(model, z, pairs)`, with a name that every process agrees on.

    Args:
        name: of the argument, for error messages.
        function: what it calls.

    Raises:
        InvalidTypeError: `function` is not callable.
    """

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        if not callable(function):
            raise InvalidTypeError(f"Expected '{name}' to be a function (got {type(function).__name__})")
        self.name, self.function = name, function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __repr__(self) -> str:
        """Return the function's name, a digest of its code and one of the values that it encloses, if any."""
        named = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        code = code_hash(self.function)
        cells = [cell.cell_contents for cell in getattr(self.function, "__closure__", None) or ()]
        values = [value for value in cells if not isinstance(value, nn.Module)]
        return " ".join(filter(None, (named, code[:12], content_hash(values)[:12] if values else "")))


@contextmanager
def own_words(model: nn.Module, data: Data | None, words: Callable[[], tuple[str, str]]) -> Iterator[None]:
    """Inside the block an exception of the caller's code becomes an `UnsupportedModelError` that says what was called.

    Args:
        model: whose code runs.
        data: what it reads, to be described; `None` says nothing of it.
        words: returns the call, `"model(x, edge_index)"`, and what to pass instead, `"call=lambda model, data: ..."`;
            called after a failure alone, since steps of training come here.
    """
    try:
        yield
    except (GunlearnError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the caller's code can raise anything
        kind, said = type(getattr(model, "_orig_mod", model)).__name__, (str(error).strip().splitlines() or [""])[0]
        how, remedy = words()
        holds = "" if data is None else f"; the data holds {contents(data)}"
        raise UnsupportedModelError(
            f"Expected {how} to run (got {type(error).__name__} of {kind}: {said[:200]}{holds}); pass {remedy}"
        ) from error


def contents(data: Data) -> str:
    """Return names, shapes and types of the attributes of a graph."""
    parts = []
    for name in data.keys():  # noqa: SIM118 - iterating a Data yields pairs
        value = data[name]
        if name == GONE:  # ours, not the caller's
            continue
        if isinstance(value, Tensor):
            parts.append(f"{name} {list(value.shape)} {str(value.dtype).removeprefix('torch.')}")
        elif name != "num_nodes":
            parts.append(f"{name} ({type(value).__name__})")
    return ", ".join(parts) or "nothing"


def suggested(function: Callable[..., Any], data: Data, optional: Iterable[str] = (), read: str = "") -> str:
    """Return a `call=` for a model, as far as its signature says it; `<name>` is an argument that the data lack.

    Args:
        function: the model, or a method of it.
        data: a graph.
        optional: attributes of the data that the model is called with by name.
        read: code that reads the wanted part of what the model returns; see `place_of_rows`.
    """
    forward = function.forward if isinstance(function, nn.Module) else function
    try:
        parameters = list(inspect.signature(forward).parameters.values())
    except (TypeError, ValueError):
        return "call=lambda model, data: ..."
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p.name for p in positional if p.default is p.empty]
    if not positional:  # a container of parts, such as `nn.ModuleDict`, or *args alone: only its owner knows the call
        return "call=lambda model, data: ..."
    if read:  # the usual call works
        required = ["x", "edge_index", *required[2:]]
    elif [_ALIASES.get(name, name) for name in required] == ["x", "edge_index"]:
        return "a model and data that fit, or call=lambda model, data: ..."
    if len(required) == 1 and required[0] not in data:
        given = "data"
    else:
        named = [f"{name}=data.{name}" for name in optional if name not in required]
        given = ", ".join([*(f"data.{name}" if name in data else f"<{name}>" for name in required), *named])
    own = getattr(function, "__name__", "") if inspect.ismethod(function) else ""
    return f"call=lambda model, data: model{f'.{own}' if own else ''}({given}){read}"


def place_of_rows(out: Any, number: int) -> str:
    """Return code that reads the first tensor of `number` rows out of a tuple, list or dict; empty where none is."""
    pairs = out.items() if isinstance(out, Mapping) else enumerate(out) if isinstance(out, tuple | list) else ()
    for key, value in pairs:
        if isinstance(value, Tensor) and value.is_floating_point() and value.dim() and value.size(0) == number:
            return f"[{key!r}]"
    return ""
