"""Shrink trained weights: what memory added to them goes first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from gunlearn.errors import InvalidInputError, InvalidTypeError, UnsupportedModelError
from gunlearn.tasks.base import Task

#: What `towards` may be for a model with an adapter: its own base.
BASE = "base"


@torch.no_grad()
def shrink(model: nn.Module, factor: float, towards: Mapping[str, Tensor] | None = None) -> None:
    r"""Multiply the trained weight matrices of a model by `factor`, or their difference from others, in place.

    Gains and biases, parameters of at most one dimension, stay as they are without `towards`: a norm's gain multiplies
    the matrix that follows it, so that shrinking both would count twice, and a shrunk bias belongs to other inputs than
    it was learned for. Where all of a model's trained parameters have one dimension, nothing else is left, and they are
    shrunk.

    Args:
        model: parameters that require no gradient stay as they are.
        factor: 1 leaves the weights as they are, bit for bit.
        towards: weights :math:`\theta_0` of the model before it was fine-tuned, from `pretrained_weights`: all trained
            parameters become :math:`\theta_0 + f (\theta - \theta_0)`, `theta_0` itself for `factor` 0.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if towards is not None:
        for name, parameter in trained.items():
            parameter.copy_(torch.lerp(towards[name].to(parameter), parameter, factor))  # exact for 0 and 1
        return
    matrices = [parameter for parameter in trained.values() if parameter.dim() > 1]
    for parameter in matrices or trained.values():
        parameter.mul_(factor)


def shrinking_of(model: nn.Module, task: Task, factor: float, towards: Any) -> Callable[[], Any]:
    """Return what shrinks a model in place, or the change that its adapter makes; refuse what does not fit before.

    Raises:
        InvalidInputError: `towards` for a model with an adapter; or as `pretrained_weights` raises.
        UnsupportedModelError: an adapter without multiples; or as `pretrained_weights` raises.
    """
    if not hasattr(model, "peft_config"):
        return partial(shrink, model, factor, None if towards is None else pretrained_weights(model, towards))
    if towards is not None and not (isinstance(towards, str) and towards == BASE):
        raise InvalidInputError(
            f"Expected no 'towards' for a model with an adapter, which is shrunk towards its own base, or {BASE!r} "
            f"(got {type(towards).__name__}); merge the adapter to shrink other weights"
        )
    if factor == 1:
        return partial(shrink, model, factor)
    advice = "merge the adapter, and name the weights before it as 'towards'"
    return partial(scaling_of(model, task, "'shrink' below 1", advice), factor)


def scaling_of(model: nn.Module, task: Task, what: str, advice: str) -> Callable[[float], Any]:
    """Return what scales the change that a model's adapter makes, in place.

    Args:
        model: a model with an adapter of peft.
        task: that knows how.
        what: needs it, in errors.
        advice: where the task does not.

    Raises:
        UnsupportedModelError: a task without adapters, or an adapter without multiples.
    """
    scale = task.adapter_scaling(model)
    if scale is None:
        raise UnsupportedModelError(
            f"Expected a model without an adapter for {what} of task '{task.name}' (got {type(model).__name__}); "
            f"{advice}"
        )
    return scale


def pretrained_weights(model: nn.Module, towards: Any) -> dict[str, Tensor]:
    """Return the weights that a model had before it was fine-tuned, by the names of its trained parameters.

    Args:
        model: the fine-tuned model.
        towards: a model of the same architecture, its `state_dict`, a safetensors file, or a folder of such files (as
            `save_pretrained` writes). Weights that are tied in `model` may go by any of their names.

    Raises:
        InvalidTypeError: none of these.
        InvalidInputError: no such file, weights that are not finite, or the model's own.
        UnsupportedModelError: weights of another architecture: names or shapes that differ.
    """
    given = _weights(towards)
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    more = sorted(given.keys() - {name for of in names.values() for name in of} - model.state_dict().keys())
    found = {}
    for name, parameter in model.named_parameters():
        values = [given[other] for other in names[id(parameter)] if other in given]
        known = values[0] if values else None
        if any(not torch.equal(values[0], value) for value in values[1:]):
            raise UnsupportedModelError(
                f"Expected 'towards' with {names[id(parameter)]} tied (got weights that differ)"
            )
        if known is None or known.shape != parameter.shape or more:
            differs = f"no '{name}'" if known is None else f"'{name}' of shape {tuple(known.shape)}"
            raise UnsupportedModelError(
                f"Expected 'towards' as weights of the same architecture, '{name}' of shape {tuple(parameter.shape)} "
                f"and no others (got {f'{len(more)} others, such as {more[0]!r}' if more else differs})"
            )
        if not torch.isfinite(known).all():
            raise InvalidInputError(f"Expected finite weights in 'towards' (got others in '{name}')")
        if parameter.requires_grad:
            found[name] = known.detach()
    own = dict(model.named_parameters())
    if found and all(torch.equal(value.to(own[name]), own[name]) for name, value in found.items()):
        raise InvalidInputError("Expected 'towards' as the weights before fine-tuning (got those of the model itself)")
    return found


def _weights(towards: Any) -> dict[str, Tensor]:
    """Return all weights of a model, a state or files, by name."""
    if isinstance(towards, nn.Module):
        return towards.state_dict()
    if isinstance(towards, str | PathLike):
        return _from_files(Path(towards))
    if isinstance(towards, Mapping) and all(isinstance(value, Tensor) for value in towards.values()):
        return dict(towards)
    raise InvalidTypeError(
        f"Expected 'towards' as a model, its state_dict, or a file or folder of safetensors (got "
        f"{type(towards).__name__})"
    )


def _from_files(path: Path) -> dict[str, Tensor]:
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise InvalidInputError(f"Expected a file or a folder of safetensors for 'towards' (got none at {path})")
    try:
        return {name: value for file in files for name, value in load_file(file).items()}
    except (OSError, SafetensorError) as error:
        raise InvalidInputError(f"Expected safetensors for 'towards' (got {path}: {error})") from error
