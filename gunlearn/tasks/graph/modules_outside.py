"""Modules that a caller's own `call` or `decode` runs beside the model that it is given, where no method comes."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from torch import nn

from gunlearn.tasks.graph.reached_values import modules_reached_by

if TYPE_CHECKING:
    from gunlearn.tasks.calling import Called
    from gunlearn.tasks.graph.base import GraphTask


def warn_of_modules_outside(task: GraphTask, model: nn.Module) -> None:
    """Warn of modules with trained parameters that a task's own functions take from the code around them.

    A predictor beside the encoder is one, and so is the model by its name outside: methods train a copy, which only the
    function's first argument is.

    Args:
        task: with the functions, if any.
        model: that the task is to call.
    """
    functions: list[Called] = [own for own in (task.call, getattr(task, "score", None)) if own is not None]
    for own in functions:
        found = {
            name: module
            for name, module in modules_reached_by(own.function)
            if any(parameter.requires_grad for parameter in module.parameters())
        }
        if not found:
            continue
        held = {id(parameter) for parameter in model.parameters()}
        inside = all(id(parameter) in held for module in found.values() for parameter in module.parameters())
        said = ", ".join(f"'{name}' ({type(module).__name__})" for name, module in found.items())
        remedy = (
            "read it from the function's first argument, the copy that is trained"
            if inside
            else "put it into the model (torch.nn.ModuleDict) and read it from the function's first argument, or "
            "freeze it with requires_grad_(False) if it was not trained"
        )
        warnings.warn(
            f"'{own.name}' runs {said} of the code around it, which is neither trained nor copied: what it learned of "
            f"the forgotten stays; {remedy}",
            stacklevel=3,
        )
