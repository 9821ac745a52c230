"""The two ends of a path in weight space: models of one architecture, held against each other by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.connectivity.same_architecture import check_architecture, check_readable, check_tensors, listed
from gunlearn.errors import GunlearnError, InvalidInputError, InvalidTypeError, UnsupportedModelError
from gunlearn.tasks.items.statistics import batch_norm_layers
from gunlearn.tasks.trial import plain_copy
from gunlearn.training.result import belongs_to_operator


@dataclass(frozen=True, eq=False)
class PathEnds:
    """Two models of one architecture, checked.

    Attributes:
        template: a private copy of the first one, to compute with.
        weights: copies of the parameters by name at both ends, tied ones once, without gradient.
        buffers: copies of the buffers by name at both ends.
        moving: names of the parameters that a curve may bend: all but frozen ones that are the same at both ends.
        statistics: whether layers hold running statistics of batch normalisation.
    """

    template: nn.Module
    weights: tuple[dict[str, Tensor], dict[str, Tensor]]
    buffers: tuple[dict[str, Tensor], dict[str, Tensor]]
    moving: tuple[str, ...]
    statistics: bool


def path_ends(first: Any, second: Any, data: bool = True) -> PathEnds:
    """Return the ends of a path between two modules, or results that hold them.

    A model with a LoRA adapter is merged into plain weights first: the path then runs on `W + B A`. A path on the
    factors would be another one, whose middle is no mean of the two models.

    Without `data`, settings may differ, and attributes that hold data, such as tensors that a pass leaves on a module.

    Raises:
        InvalidTypeError: no module.
        InvalidInputError: lazy weights, NaN, or tensors that differ in name, shape, type or device, by their names.
        UnsupportedModelError: another architecture, quantised weights, adapters that cannot be merged, operators of a
            request at one end alone, or buffers that differ and that nobody can compute anew.
    """
    models = [checked_end(end, which) for end, which in ((first, "first"), (second, "second"))]
    weights = [{name: p.detach().clone() for name, p in model.named_parameters()} for model in models]
    buffers = [{name: b.detach().clone() for name, b in model.named_buffers()} for model in models]
    check_tensors(*weights)
    check_architecture(models[0], models[1], data, data)
    _check_buffers(models[0], *buffers)
    learning = {name for model in models for name, p in model.named_parameters() if p.requires_grad}
    moving = tuple(n for n in weights[0] if n in learning or not torch.equal(weights[0][n], weights[1][n]))
    return PathEnds(
        template=plain_copy(models[0]),
        weights=(weights[0], weights[1]),
        buffers=(buffers[0], buffers[1]),
        moving=moving or tuple(weights[0]),
        statistics=bool(batch_norm_layers(models[0])),
    )


def with_weights_of(model: nn.Module, other: nn.Module) -> nn.Module:
    """Return a copy of `model` that has the parameters, which of them learn, and the buffers of `other`."""
    shell = plain_copy(model)
    check_tensors(dict(shell.named_parameters()), dict(other.named_parameters()))
    check_tensors(dict(shell.named_buffers()), dict(other.named_buffers()))
    with torch.no_grad():
        for name, own in other.named_parameters():
            shell.get_parameter(name).requires_grad_(own.requires_grad).copy_(own)
        for name, value in other.named_buffers():
            shell.get_buffer(name).copy_(value)
    return shell


def module_of(end: Any) -> nn.Module:
    """Return the module itself, uncompiled, or that of a result; InvalidTypeError for anything else."""
    model = getattr(end, "model", None) if not isinstance(end, nn.Module) else end
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"Expected modules or results as ends of a path (got {type(end).__name__})")
    return getattr(model, "_orig_mod", model)  # the wrapper of torch.compile


def modules_of(references: Any, partition: Any = None) -> list[nn.Module]:
    """Return retrained models as a list of modules: given as modules or results, as one of them, or as `None`.

    Raises:
        InvalidTypeError: something else, by its place.
        InvalidInputError: a result that forgot something else than the partition says.
    """
    if references is None:
        return []
    one_alone = isinstance(references, nn.Module) and not isinstance(references, nn.ModuleList)
    given = [references] if one_alone or not isinstance(references, Iterable) else list(references)
    request = getattr(partition, "request_hash", None)
    for k, one in enumerate(given, start=1):
        if not isinstance(one, nn.Module) and not isinstance(getattr(one, "model", None), nn.Module):
            raise InvalidTypeError(
                f"Expected modules or results as references (got {type(one).__name__} as number {k})"
            )
        forgot = None if isinstance(one, nn.Module) else getattr(one, "request_hash", None)
        if request is not None and forgot not in (None, request):
            raise InvalidInputError(
                f"Expected references that were trained without what the request forgets (got a result of another "
                f"request as number {k}; pass its 'model' if that request forgot this one's items, too)"
            )
    return [module_of(one) for one in given]


def checked_end(end: Any, which: str) -> nn.Module:
    """Return the module of one end, an adapter merged into its weights; see `path_ends` for what is refused."""
    model = module_of(end)
    try:
        check_readable(model, which)
    except GunlearnError as error:
        raise type(error)(f"At the {which} end of the path: {error}") from error
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        packed = tensor.is_quantized or (isinstance(tensor, nn.Parameter) and not tensor.is_floating_point())
        if packed:
            raise UnsupportedModelError(
                f"Expected floating point weights at the {which} end of the path (got '{name}' of {tensor.dtype}); "
                "convert quantised weights back first"
            )
    return _merged(model, which)


def _merged(model: nn.Module, which: str) -> nn.Module:
    """Return a model with an adapter as plain weights; others as they are."""
    adapted = [name for name, _ in model.named_parameters() if ".lora_" in f".{name}"]
    if not adapted and not hasattr(model, "peft_config"):
        return model
    merge = getattr(plain_copy(model), "merge_and_unload", None)
    if not callable(merge):
        raise UnsupportedModelError(
            f"Expected an adapter that can be merged at the {which} end of the path, since a path on its factors is "
            f"none on its weights (got {type(model).__name__} with '{(adapted or ['peft_config'])[0]}' and no "
            "'merge_and_unload'); merge it first"
        )
    merged = merge()
    left = [name for name, _ in merged.named_parameters() if ".lora_" in f".{name}"]
    if left:
        raise UnsupportedModelError(f"Expected an adapter that merges into the weights (got '{left[0]}' after merging)")
    return merged.requires_grad_(False)  # so that weights move which the adapters change


def _check_buffers(model: nn.Module, first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Refuse buffers that differ, but for running statistics, which are computed anew."""
    layers = {id(layer) for layer in batch_norm_layers(model)}
    anew = {f"{name}." for name, module in model.named_modules() if id(module) in layers}
    wrong = [
        name
        for name in {**first, **second}
        if not name.startswith(tuple(anew))
        and not (name in first and name in second and torch.equal(first[name], second[name]))
    ]
    if wrong and all(map(belongs_to_operator, wrong)):
        raise UnsupportedModelError(
            f"Expected deletion operators on the same nodes at both ends of the path (got other nodes in "
            f"{listed(wrong)}): the two requests differ"
        )
    if wrong:
        raise UnsupportedModelError(
            f"Expected buffers that are the same at both ends of the path, but for statistics of batch normalisation "
            f"(got {listed(wrong)}, which nobody can compute anew)"
        )
