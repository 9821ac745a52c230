"""Checks of arguments."""

import math
import os
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.utils._pytree import tree_leaves

from gunlearn.errors import (
    EmptyForgetSetError,
    InvalidInputError,
    InvalidRequestError,
    InvalidTypeError,
    UnsupportedModelError,
)


def check_differentiable(loss: Tensor) -> None:
    """Refuse losses without a gradient, before autograd does in its own words."""
    if not loss.requires_grad and not torch.is_grad_enabled():
        raise InvalidInputError(
            "Expected a call that records gradients (got one inside torch.no_grad()); call it outside"
        )
    if not loss.requires_grad:
        raise UnsupportedModelError(
            "Expected a loss with a gradient for the trained weights (got none): does the model's forward run "
            "under torch.no_grad(), or detach its outputs?"
        )


def check_same_shape(name: str, current: Tensor, reference: Tensor) -> None:
    """Refuse shapes that differ: `[n]` with `[n, 1]` would broadcast to n x n values."""
    if current.shape != reference.shape:
        raise InvalidInputError(
            f"Expected '{name}' of one shape, current {tuple(current.shape)} "
            f"(got {tuple(reference.shape)} for the reference)"
        )


def check_categorical(logits: Tensor, items: tuple[int, ...]) -> None:
    """Refuse logits that are not `[*items, num_classes]` with at least two classes, such as Bernoulli logits."""
    if logits.shape[:-1] != items or logits.size(-1) < 2:
        expected = ", ".join(map(str, (*items, "num_classes")))
        raise InvalidInputError(f"Expected 'logits' [{expected}] with at least two classes (got {tuple(logits.shape)})")


def check_token_ids(name: str, value: object) -> None:
    """Refuse anything but a tuple of class indices."""
    ids = value if isinstance(value, tuple) else ()
    if not ids or any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in ids):
        raise InvalidInputError(f"Expected '{name}' to be a tuple of class indices >= 0 (got {value!r})")


def check_token_range(token_ids: tuple[int, ...], logits: Tensor) -> None:
    """Refuse class indices that the logits do not have."""
    if max(token_ids) >= logits.size(-1):
        raise InvalidInputError(f"Expected 'token_ids' below {logits.size(-1)} classes (got {max(token_ids)})")


def check_name(name: str, value: object) -> None:
    """Refuse anything but a non-empty string, the name of a part of the data."""
    if not isinstance(value, str) or not value:
        raise InvalidInputError(f"Expected '{name}' to name a part of the data (got {value!r})")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse a value that is not one of `choices`."""
    if value not in choices:
        raise InvalidInputError(f"Expected '{name}' to be one of {', '.join(map(repr, choices))} (got {value!r})")


def check_number(name: str, value: object, *, positive: bool = False, minimum: float = -math.inf) -> None:
    """Refuse anything but a finite number of at least `minimum`, above 0 if `positive`."""
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if not math.isfinite(number) or number < minimum or (positive and number <= 0):
        kind = "positive finite" if positive else "finite" if minimum == -math.inf else f"finite (>= {minimum:g})"
        raise InvalidInputError(f"Expected '{name}' to be a {kind} number (got {value!r})")


def check_integer(name: str, value: object, *, minimum: int | None = None) -> None:
    """Refuse what is no integer, or is below `minimum`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or (minimum is not None and value < minimum):
        kind = "an integer" if minimum is None else f"an integer >= {minimum}"
        raise InvalidInputError(f"Expected '{name}' to be {kind} (got {value!r})")


def the_one_given(request: Any, names: Sequence[str]) -> str:
    """Return the one name of `names` that the request has a value for; InvalidRequestError for none or several."""
    given = [name for name in names if getattr(request, name) is not None]
    if len(given) != 1:
        raise InvalidRequestError(f"Expected exactly one of {', '.join(names)} (got {', '.join(given) or 'none'})")
    return given[0]


def check_seed(seed: Any) -> None:
    """Refuse anything but an integer of 64 bits, which torch's generators take."""
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise InvalidRequestError(f"Expected 'seed' to be an integer (got {seed!r})")
    if not -(2**63) <= int(seed) < 2**63:
        raise InvalidRequestError(f"Expected 'seed' to be an integer of 64 bits, in [-2**63, 2**63) (got {seed})")


def check_folder_path(name: str, value: Any) -> None:
    """Refuse anything but a path of a folder, or `None`."""
    if value is not None and not isinstance(value, str | os.PathLike):
        raise InvalidTypeError(f"Expected '{name}' to be the path of a folder or None (got {value!r})")


def check_size(ratio: Any, count: Any, noun: str) -> None:
    """Refuse a ratio outside (0, 1) and a count that is no positive integer: EmptyForgetSetError for 0."""
    if ratio is not None and (isinstance(ratio, bool) or not isinstance(ratio, Real) or not 0 < float(ratio) < 1):
        raise InvalidRequestError(f"Expected 0 < ratio < 1 (got {ratio!r})")
    if count is not None and (isinstance(count, bool) or not isinstance(count, Integral) or count < 0):
        raise InvalidRequestError(f"Expected 'count' to be a positive integer (got {count!r})")
    if count == 0:
        raise EmptyForgetSetError(f"Expected at least one {noun} to forget (got count=0)")


def check_model(model: Any) -> None:
    """Refuse anything but an initialised module with parameters and finite weights and buffers, all open to autograd.

    TorchScript's modules have no code to read or attach to, and tensors of `torch.inference_mode` never learn.
    """
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"Expected 'model' to be a torch module (got {type(model).__name__})")
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            where, own = (f" in '{name}'", f".{name}") if name else ("", "")
            raise UnsupportedModelError(
                f"Expected a module of Python (got TorchScript's {type(module).__name__}{where}); pass the module that "
                f"was scripted or traced, with module.load_state_dict(model{own}.state_dict()), and script what you get"
            )
    if not any(True for _ in model.parameters()):
        raise InvalidInputError(f"Expected a model with parameters (got {type(model).__name__} with none)")
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, UninitializedParameter | UninitializedBuffer):
            raise InvalidInputError(f"Expected an initialised model (got lazy parameter '{name}'); call it once first")
        if isinstance(tensor, Tensor) and tensor.is_inference():
            raise UnsupportedModelError(
                f"Expected a model that was built or loaded outside torch.inference_mode() (got '{name}' from inside); "
                "pass copy.deepcopy(model), made outside of it"
            )
        if not is_finite(tensor):
            raise InvalidInputError(f"Expected a model with finite weights (got NaN or infinity in '{name}')")


def is_finite(value: Any) -> bool:
    """Return whether a dense or sparse tensor, or all of a nested collection, holds neither NaN nor infinity."""
    if not isinstance(value, Tensor):  # what get_extra_state() returned
        return all(map(is_finite, (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))))
    tensor = value
    if tensor.layout != torch.strided:
        tensor = tensor.to_sparse_coo().coalesce().values()
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
