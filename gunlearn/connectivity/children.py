"""What stands on a path in place of its plain models: calibrated ones, or such that are merged in closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from gunlearn.connectivity.alignment.calibration import MessageCalibration
from gunlearn.connectivity.alignment.merging import merge_in_closed_form
from gunlearn.connectivity.part_losses import PartLosses
from gunlearn.connectivity.weight_paths import WeightPath
from gunlearn.core.checks import check_choice
from gunlearn.errors import InvalidInputError
from gunlearn.tasks.trial import plain_copy

CHILDREN = ("calibrated", "merged")
Child = str | Callable[[nn.Module, float], nn.Module] | None


def check_child(child: Any, path: str) -> None:
    """Refuse what is no child of a path of this kind: another name, models merged on a curve, or no function."""
    if isinstance(child, str):
        check_choice("child", child, CHILDREN)
        if child == "merged" and path != "linear":
            raise InvalidInputError(f"Expected path='linear' for child='merged', which has no bends (got '{path}')")
    elif child is not None and not callable(child):
        raise InvalidInputError(f"Expected 'child' to be a name, a function or None (got {child!r})")


def child_maker(
    child: Child, path: WeightPath, items: PartLosses
) -> tuple[Callable[[nn.Module, float], nn.Module] | None, str]:
    """Return what turns the model of a path at `t` into the one that stands there, and in words what it does.

    Args:
        child: `"calibrated"` (`MessageCalibration`), `"merged"` (`merge_in_closed_form`, of straight lines), a function
            `child(model, t)` that returns a model of the same architecture, or `None`.
        path: the path.
        items: of the problem, on whose retained items both read; no label is read.

    Raises:
        GunlearnError: see `MessageCalibration` and `merge_in_closed_form`.
    """
    if child is None or not isinstance(child, str):
        return child, "" if child is None else f"made by {getattr(child, '__name__', type(child).__name__)}"
    first, second = (path.model_at(end) for end in (0, 1))
    run = items.call_of(plain_copy(first))
    given: dict[str, Any] = {"data": items, "call": lambda model, _: run(model)}
    if child == "merged":
        _, notes = merge_in_closed_form(first, second, 0.5, **given)
        return lambda model, t: merge_in_closed_form(first, second, t, **given)[0], f"merged; {_told(notes)}"
    calibrate = MessageCalibration(first, second, **given)
    return calibrate, f"calibrated; {_told(calibrate.notes)}"


def _told(notes: dict[str, Any]) -> str:
    return "; ".join(
        f"{what}: {', '.join(names)}" for what, names in notes.items() if names and not isinstance(names, str)
    )
