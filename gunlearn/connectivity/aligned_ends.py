"""The second end of a path as it is compared with the first: with the first one's settings, and in its coordinates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from gunlearn.connectivity.alignment.aligned_model import MATCHINGS, align_models
from gunlearn.connectivity.alignment.model_pair import outputs_of
from gunlearn.connectivity.alignment.same_function import difference
from gunlearn.connectivity.ends_of_paths import checked_end, module_of, with_weights_of
from gunlearn.connectivity.part_losses import PARTS, PartLosses
from gunlearn.connectivity.same_architecture import (
    check_tensors,
    code_differences,
    data_differences,
    setting_differences,
)
from gunlearn.core.checks import check_choice
from gunlearn.errors import InvalidInputError, UnsupportedModelError
from gunlearn.tasks.trial import plain_copy

#: How the second model is brought into the first one's order and scale, or a function that does it.
Align = str | Callable[[nn.Module, nn.Module], Any] | None
_SHOWN, _SAME = ("aligned", "left"), 1e-3


def settled_end(first: nn.Module, second: nn.Module, items: PartLosses) -> tuple[nn.Module, str]:
    """Return the second model with the first one's settings, and in words which of them differed.

    The models of a path are the first one with other weights. Rates of dropout, seeds and counters may differ, but
    the second model's weights must compute there what the second model computes.

    Args:
        first: the module at `t = 0`.
        second: that at `t = 1`; it does not change, and is returned itself where no setting differs.
        items: of the problem.

    Raises:
        UnsupportedModelError: other modules or code, or another function on retained, forgotten or held-out items.
        GunlearnError: see `path_ends`.
    """
    one, two = checked_end(first, "first"), checked_end(second, "second")
    check_tensors(dict(one.named_parameters()), dict(two.named_parameters()))
    shapes = [{name: buffer.shape for name, buffer in model.named_buffers()} for model in (one, two)]
    if code_differences(one, two) or shapes[0] != shapes[1]:
        return second, ""  # for `path_ends` to refuse
    shell = with_weights_of(one, two)
    adopted = [items.task.adopt(plain_copy(model)) for model in (two, shell)]
    far, within = 0.0, _SAME
    for part in PARTS:
        own, beside = (items.some(model, part) for model in adopted)
        if not own.numel():
            continue
        if not torch.isfinite(own).all():
            return second, ""  # for the evaluation to refuse
        far = max(far, float((own - beside).abs().max() / own.abs().max().clamp(min=1)))
        within = max(_SAME, 16 * torch.finfo(own.dtype).eps)
    found = setting_differences(one, two) + data_differences(one, two)
    if not far <= within:
        raise UnsupportedModelError(
            "Expected two models of one architecture, that differ in parameters and buffers alone (got "
            f"{'; '.join(found[:3]) or 'a difference in something else'}: with the first model's the second one "
            f"computes something else, by {far:.2g} on the items)"
        )
    return (shell, f"those of the first model; {'; '.join(found[:3])} in the second") if found else (second, "")


def check_align(align: Any) -> None:
    """Refuse what is no way to align: another name, or no function."""
    if isinstance(align, str):
        check_choice("align", align, MATCHINGS)
    elif align is not None and not callable(align):
        raise InvalidInputError(f"Expected 'align' to be a name, a function or None (got {align!r})")


def aligned_end(first: nn.Module, second: nn.Module, align: Align, items: PartLosses) -> tuple[nn.Module, str]:
    """Return the second model as it is compared with the first, and what was done in words.

    Args:
        first: the module that stays as it is.
        second: the other one; it does not change.
        align: a name of `align_models`, which then reads the retained items (a thousand of them where they are
            independent); a function `align(first, second)` that returns a module, or an object with it as `model`; or
            `None`.
        items: of the problem.

    Raises:
        InvalidInputError: a function that returns a model that computes something else.
        InvalidTypeError: the function returns no module.
        GunlearnError: see `align_models`.
    """
    if align is None:
        return second, "none: the units of the second model are in the order in which it came"
    run = items.call_of(plain_copy(first))
    if isinstance(align, str):
        found = align_models(first, second, align, data=items, call=lambda model, _: run(model))
        told = "; ".join(f"{what}: {_listed(found.notes[what])}" for what in _SHOWN if found.notes[what])
        return found.model, f"of the second model to the first, by {align}; {told}"
    aligned = align(first, second)
    outputs = [outputs_of(model, run) for model in (second, module_of(aligned))]
    far = difference(*outputs)
    if not far < _SAME:
        raise InvalidInputError(
            "Expected 'align' to return the second model with its units in another order, which computes the same (got "
            f"outputs on retained items that differ by {far:.2g} of the largest)"
        )
    return module_of(aligned), f"of the second model to the first: {getattr(aligned, 'notes', None) or repr(align)}"


def _listed(layers: dict[str, str]) -> str:
    return ", ".join(f"'{name}' ({said})" for name, said in layers.items())
