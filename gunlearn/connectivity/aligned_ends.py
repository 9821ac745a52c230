"""The second end of a path in the coordinates of the first, by a name or a function of the caller's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from gunlearn.connectivity.alignment.aligned_model import MATCHINGS, align_models
from gunlearn.connectivity.alignment.model_pair import outputs_of
from gunlearn.connectivity.alignment.same_function import difference
from gunlearn.connectivity.ends_of_paths import module_of
from gunlearn.connectivity.part_losses import PartLosses
from gunlearn.core.checks import check_choice
from gunlearn.errors import InvalidInputError
from gunlearn.tasks.base import Task

#: How the second model is brought into the first one's order and scale, or a function that does it.
Align = str | Callable[[nn.Module, nn.Module], Any] | None
_SHOWN, _SAME = ("aligned", "left"), 1e-3


def aligned_end(
    first: nn.Module, second: nn.Module, align: Align, task: Task, partition: Any, data: Any
) -> tuple[nn.Module, str]:
    """Return the second model as it is compared with the first, and what was done in words.

    Args:
        first: the module that stays as it is.
        second: the other one; it does not change.
        align: a name of `align_models`, which then reads the retained items (a thousand of them where they are
            independent); a function `align(first, second)` that returns a module, or an object with it as `model`; or
            `None`.
        task: what they predict.
        partition: what was forgotten, or `None`.
        data: training data, where there is no partition.

    Raises:
        InvalidInputError: another name, or a function that returns a model that computes something else.
        InvalidTypeError: the function returns no module.
        GunlearnError: see `align_models`.
    """
    if align is None:
        return second, "none: the units of the second model are in the order in which it came"
    items = PartLosses(task, partition, first, data)
    if isinstance(align, str):
        check_choice("align", align, MATCHINGS)
        found = align_models(first, second, align, data=items, call=lambda model, read: read.outputs(model))
        told = "; ".join(f"{what}: {_listed(found.notes[what])}" for what in _SHOWN if found.notes[what])
        return found.model, f"of the second model to the first, by {align}; {told}"
    aligned = align(first, second)
    outputs = [outputs_of(model, items.outputs) for model in (second, module_of(aligned))]
    far = difference(*outputs)
    if not far < _SAME:
        raise InvalidInputError(
            "Expected 'align' to return the second model with its units in another order, which computes the same (got "
            f"outputs on retained items that differ by {far:.2g} of the largest)"
        )
    return module_of(aligned), f"of the second model to the first: {getattr(aligned, 'notes', None) or repr(align)}"


def _listed(layers: dict[str, str]) -> str:
    return ", ".join(f"'{name}' ({said})" for name, said in layers.items())
