"""Whether two models are of one architecture: their tensors by name, their settings, their data and their code."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.weight_norm import WeightNorm

from gunlearn.core.behaviour import changed_code, code_of, differences, settings_of
from gunlearn.core.checks import check_model
from gunlearn.core.digest import content_hash
from gunlearn.core.libraries import is_own
from gunlearn.errors import InvalidInputError, UnsupportedModelError
from gunlearn.training.result import belongs_to_operator

_SHOWN = 3  # names in an error
_BESIDE = {"warnings_issued", "model_tags", "hf_device_map"}  # what transformers keep, which decides no output
_DATA = Tensor | np.ndarray | list | tuple | dict | set  # attributes that settings do not tell whole


def check_readable(model: nn.Module, which: str) -> None:
    """Refuse weights without values, and what `check_model` refuses.

    Raises:
        UnsupportedModelError: weights on `meta`.
        InvalidInputError: lazy or non-finite weights.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise UnsupportedModelError(f"Expected weights in memory in the {which} model (got '{name}' on 'meta')")
    check_model(model)


def check_tensors(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    """Refuse two models' parameters (or buffers) of different names, shapes, types or devices.

    Raises:
        InvalidInputError: they differ, by their names.
        UnsupportedModelError: deletion operators in one of the two alone.
    """
    only = {"first": sorted(first.keys() - second.keys()), "second": sorted(second.keys() - first.keys())}
    told = "; ".join(f"the {which} alone has {listed(names)}" for which, names in only.items() if names)
    if told and all(belongs_to_operator(name) for names in only.values() for name in names):
        raise UnsupportedModelError(
            f"Expected deletion operators in both models or in neither (got: {told}); nothing lies between a layer and "
            "none"
        )
    if told:
        raise InvalidInputError(
            f"Expected the same parameters in both models, weights that are tied in both (got: {told})"
        )
    for what in ("shape", "dtype", "device"):
        wrong = [n for n in first if getattr(first[n], what) != getattr(second[n], what)]
        if wrong:
            a, b = (getattr(side[wrong[0]], what) for side in (first, second))
            a, b = (tuple(a), tuple(b)) if what == "shape" else (a, b)
            raise InvalidInputError(f"Expected parameters of one {what} (got {a} and {b} in {listed(wrong)})")


def check_architecture(first: nn.Module, second: nn.Module, settings: bool = True, data: bool = True) -> None:
    """Refuse models whose modules compute different things from the same weights (UnsupportedModelError).

    Without `settings` these may differ, and without `data` plain attributes that hold data: what a pass leaves there
    is no part of the architecture.
    """
    found = code_differences(first, second)
    found += setting_differences(first, second) if settings else []
    changed = data_differences(first, second) if data else []
    if changed:
        changed[-1] += " (gunlearn.connect runs both models, and sees whether that matters)"
    found = changed + found
    if found:
        raise UnsupportedModelError(f"Expected two models of one architecture (got: {'; '.join(found[:_SHOWN])})")


def code_differences(first: nn.Module, second: nn.Module) -> list[str]:
    """Return in words where the modules of two models, or their code, are others."""
    kinds = [{name: {"class": own["class"]} for name, own in settings_of(model).items()} for model in (first, second)]
    return differences(*kinds) + changed_code(code_of(first), code_of(second))


def setting_differences(first: nn.Module, second: nn.Module) -> list[str]:
    """Return in words which settings differ between models of the same modules.

    What layers of libraries read in training alone does not count: rates of dropout, momenta of running statistics.
    """
    one, two = (_in_evaluation(model, settings_of(model)) for model in (first, second))
    both = one.keys() & two.keys()
    return differences({n: own for n, own in one.items() if n in both}, {n: two[n] for n in both})


def data_differences(first: nn.Module, second: nn.Module) -> list[str]:
    """Return in words which plain attributes that hold data differ between two models."""
    return changed_data(data_of(first), data_of(second))


def changed_data(one: Mapping[str, str], two: Mapping[str, str]) -> list[str]:
    """Return in words where `data_of` two models differs; what only one of them has does not count."""
    return [f"the data in '{name}' differ" for name in one if two.get(name, one[name]) != one[name]]


def data_of(model: nn.Module) -> dict[str, str]:
    """Return hashes of tensors, arrays and collections in plain attributes, by name: they are no buffers."""
    told = settings_of(model)
    return {
        f"{name}.{key}".lstrip("."): content_hash(value)
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if name in told and not key.startswith("_") and key not in _BESIDE and isinstance(value, _DATA)
    }


def factored_weights(model: nn.Module) -> list[str]:
    """Return the names of weights that a module computes of parameters, such as by `weight_norm`."""
    found = []
    for name, module in model.named_modules():
        made = list(module.parametrizations) if is_parametrized(module) else []
        made += [hook.name for hook in module._forward_pre_hooks.values() if isinstance(hook, WeightNorm)]
        found += [f"{name}.{weight}".lstrip(".") for weight in made]
    return found


def _in_evaluation(model: nn.Module, settings: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    modules = dict(model.named_modules())
    return {
        name: {k: value for k, value in own.items() if k != "class" and not _in_training_alone(modules[name], k)}
        for name, own in settings.items()
    }


def _in_training_alone(module: nn.Module, key: str) -> bool:
    if is_own(type(module)):
        return False
    kinds: dict[str, type] = {"p": _DropoutNd, "momentum": _NormBase, "dropout": nn.Module}
    return isinstance(module, kinds.get(key, ()))


def listed(names: list[str]) -> str:
    """Return the first names in words."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:_SHOWN]) + more
