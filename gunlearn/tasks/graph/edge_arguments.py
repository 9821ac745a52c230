"""Weights of edges in the data: whether a model is called with them, which only its owner can know is right."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.errors import GunlearnError
from gunlearn.seed import isolated_rng
from gunlearn.tasks.graph.same_outputs import same_outputs
from gunlearn.tasks.known_models import is_trained_here
from gunlearn.tasks.trial import private_copy

if TYPE_CHECKING:
    from gunlearn.tasks.graph.base import GraphTask

_WEIGHTS = ("edge_weight", "edge_attr")
_NOT_OF_EDGES = ("batch", "edge_type", "node_type")


class _Way(NamedTuple):
    """A call of a model: what comes after `x` and `edge_index`, as code and as values."""

    code: tuple[str, ...]
    given: tuple[Any, ...]
    named: dict[str, Any]


def warn_of_edge_arguments(task: GraphTask, model: nn.Module, data: Data, outputs: Tensor, passed: bool) -> str:
    """Warn where `data.edge_weight` or `data.edge_attr` is passed, or is not, and the model tells the two calls apart.

    Nothing is said with a `call` of the owner's, of weights that change no output (all one), of a model that has no
    argument for them or needs them, of edge features of several columns that are passed by their name, and of models
    that `gunlearn.train` made.

    Args:
        task: calls the model.
        model: a private copy of it is called once or a few times.
        data: a graph.
        outputs: those of the model on it, `[num_rows, dim]`.
        passed: say so where they are passed, too.

    Returns:
        A sentence for the result's `why`; empty where nothing is said.
    """
    weights = [name for name in _WEIGHTS if isinstance(data.get(name), Tensor)]
    if not weights or task.call is not None or is_trained_here(model):
        return ""
    inner = getattr(model, "_orig_mod", model)
    probe, entry, said = private_copy(inner, task).eval(), task.entry(inner), []
    called = "model" if entry is inner else f"model.{getattr(entry, '__name__', 'encode')}"
    own = {name: data[name] for name in task.accepted(inner) if data.get(name) is not None}
    with isolated_rng(), torch.no_grad():
        for name in weights:
            other, where = _otherwise(task, probe, data, outputs, name, own)
            is_passed = not where
            if other is None or (is_passed and not (passed and data[name].numel() == data.edge_index.size(1))):
                continue
            with_it, without = (_usual(own), other) if is_passed else (other, _usual(own))
            said.append(f"data.{name} is {'' if is_passed else 'not '}passed to the model.")
            taken = (
                ", whose outputs are others without"
                if is_passed
                else f", which takes it {where} and returns others then"
            )
            warnings.warn(
                f"{said[-1][:-1]}{taken}. Only you know how it was trained: if with data.{name}, pass "
                f"{_code(called, with_it)}; if without, pass {_code(called, without)}. Either ends this warning",
                stacklevel=5,
            )
    return " ".join(said)


def _usual(own: dict[str, Any]) -> _Way:
    return _Way(tuple(f"{name}=data.{name}" for name in own), (), own)


def _otherwise(
    task: GraphTask, probe: nn.Module, data: Data, outputs: Tensor, name: str, own: dict[str, Any]
) -> tuple[_Way | None, str]:
    """Return another call of the model that gives other outputs, and where it takes a value that is not passed.

    The place is empty for a call without a value that is passed. The call is `None` where there is none.
    """
    rest = {key: value for key, value in own.items() if key != name}
    if name in own:
        found = _outputs(task, probe, data, _usual(rest))
        if found is None:  # it is needed
            return None, ""
        if _differ(found, outputs):
            return _usual(rest), ""
    for slot in _slots(task.entry(probe), own):
        code = f"data.{name}" if not slot else f"{slot}=data.{name}"
        way = _Way(
            (code, *_usual(rest).code), () if slot else (data[name],), rest | ({slot: data[name]} if slot else {})
        )
        found = _outputs(task, probe, data, way)
        if found is not None and _differ(found, outputs):
            return way, f"as '{slot}'" if slot else "as a third argument"
    return None, ""


def _slots(entry: Callable[..., Any], own: dict[str, Any]) -> Iterator[str]:
    """Yield the names of arguments that may take a value and get none; an empty one for any further argument."""
    try:
        parameters = inspect.signature(entry.forward if isinstance(entry, nn.Module) else entry).parameters.values()
    except (TypeError, ValueError):
        return
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            yield ""
        elif parameter.kind is parameter.VAR_KEYWORD and "edge_weight" not in own:
            yield "edge_weight"
        elif parameter.default is None and parameter.name not in (*_NOT_OF_EDGES, *own):
            yield parameter.name


def _outputs(task: GraphTask, probe: nn.Module, data: Data, way: _Way) -> Tensor | None:
    """Return the outputs of a call `[num_rows, dim]`; `None` where the model refuses it, or they are not finite."""
    entry = task.entry(probe)
    called: Any = task.called(lambda _, graph: entry(graph.x, graph.edge_index, *way.given, **way.named))
    try:
        found = called.encode(probe, data)
    except (GunlearnError, RuntimeError):
        return None
    return found if bool(torch.isfinite(found).all()) else None


def _differ(found: Tensor, outputs: Tensor) -> bool:
    """Return whether a call gives other values for the same items."""
    return found.shape == outputs.shape and not same_outputs(found, outputs)


def _code(called: str, way: _Way) -> str:
    return f"call=lambda model, data: {called}({', '.join(('data.x', 'data.edge_index', *way.code))})"
