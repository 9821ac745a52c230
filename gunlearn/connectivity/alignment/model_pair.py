"""Two models of one architecture, and how they are called."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.connectivity.alignment.followed_tensors import tensors_of
from gunlearn.connectivity.same_architecture import check_architecture, check_readable, check_tensors
from gunlearn.core.modes import evaluating
from gunlearn.errors import DivergenceError, GunlearnError, InvalidInputError, InvalidTypeError, UnsupportedModelError
from gunlearn.seed import isolated_rng
from gunlearn.tasks.trial import plain_copy

ModelCall = Callable[[nn.Module], Any]
_DTYPES = (torch.float32, torch.float64)
#: Attributes of a graph that a model gets where its forward names them.
_BESIDE = ("edge_weight", "edge_attr", "batch")


def check_pair(first: Any, second: Any, settings: bool = True, data: bool = True) -> None:
    """Refuse models that are not of one architecture in float32 or float64.

    Args:
        first: a model.
        second: another one.
        settings: these have to be the same, too.
        data: plain attributes that hold data have to be the same, too.

    Raises:
        InvalidTypeError: one is no module, or has quantised, half-precision or other weights than float32 or float64.
        InvalidInputError: lazy or non-finite weights, or parameters that differ in name, shape, dtype or device.
        UnsupportedModelError: weights on `meta`, or settings, data or code that differ.
    """
    for name, model in (("first", first), ("second", second)):
        if not isinstance(model, nn.Module):
            raise InvalidTypeError(f"Expected '{name}' to be a torch module (got {type(model).__name__})")
        quantised = [n for n, m in model.named_modules() if ".quantized" in type(m).__module__]
        if quantised:
            raise InvalidTypeError(
                f"Expected '{name}' with weights in float32 or float64 (got a quantised layer '{quantised[0]}')"
            )
        check_readable(model, name)
        for key, value in model.named_parameters():
            if value.dtype not in _DTYPES:
                raise InvalidTypeError(
                    f"Expected '{name}' with weights in float32 or float64 (got {value.dtype} in '{key}'); "
                    "align model.float()"
                )
    check_tensors(*(dict(model.named_parameters()) for model in (first, second)))
    check_tensors(*(dict(model.named_buffers()) for model in (first, second)))
    check_architecture(first, second, settings, data)


def runner(data: Any, inputs: Any, call: Callable[[nn.Module, Any], Any] | None) -> ModelCall:
    """Return a function that calls a model on the data, as the caller said.

    Args:
        data: a graph, called as `model(data.x, data.edge_index)`, with `edge_weight`, `edge_attr` and `batch` where
            `forward` names them; or whatever `call` reads.
        inputs: a tensor, a tuple of arguments or a dictionary of them; in place of `data`.
        call: `call(model, data)`.

    Raises:
        InvalidInputError: not exactly one of `data` and `inputs`, or data that say not how a model is called.
    """
    if (data is None) == (inputs is None):
        raise InvalidInputError(
            "Expected exactly one of 'data' and 'inputs': channels are followed by running each model once "
            f"(got {'none' if data is None else 'both'})"
        )
    if call is not None:
        given = inputs if data is None else data
        return lambda model: call(model, given)
    if data is None:
        if isinstance(inputs, Mapping):
            return lambda model: model(**inputs)
        return lambda model: model(*inputs) if isinstance(inputs, list | tuple) else model(inputs)
    if getattr(data, "x", None) is None or getattr(data, "edge_index", None) is None:
        raise InvalidInputError(
            f"Expected data with x and edge_index (got {type(data).__name__}); pass inputs=... or "
            "call=lambda model, data: ..."
        )
    return lambda model: _call_on_graph(model, data)


def _call_on_graph(model: nn.Module, data: Any) -> Any:
    named = inspect.signature(model.forward).parameters
    beside = {k: getattr(data, k) for k in _BESIDE if k in named and getattr(data, k, None) is not None}
    return model(data.x, data.edge_index, **beside)


def frozen_copy(model: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode, which may be run without a trace on the caller's model."""
    return plain_copy(model).eval().requires_grad_(False)


@torch.no_grad()
def outputs_of(model: nn.Module, run: ModelCall) -> list[Tensor]:
    """Return the floating tensors that a model returns.

    Raises:
        UnsupportedModelError: the call fails, or returns no such tensor.
        DivergenceError: an output is NaN or infinite.
    """
    with evaluating(model), isolated_rng():
        out = called(model, run)
    found = [t for t in tensors_of(out) if t.is_floating_point()]
    if not found:
        raise UnsupportedModelError(f"Expected a model that returns tensors (got {type(out).__name__})")
    if any(not torch.isfinite(t).all() for t in found):
        raise DivergenceError("Expected finite outputs on the data (got NaN or infinity)")
    return found


def called(model: nn.Module, run: ModelCall) -> Any:
    """Return what a model returns; an exception of its code becomes an `UnsupportedModelError`."""
    try:
        return run(model)
    except (GunlearnError, MemoryError):
        raise
    except Exception as error:  # the caller's code can raise anything
        said = (str(error).strip().splitlines() or [""])[0][:200]
        raise UnsupportedModelError(
            f"Expected {type(model).__name__} to run on the data (got {type(error).__name__}: {said}); pass inputs=... "
            "or call=lambda model, data: ..."
        ) from error
