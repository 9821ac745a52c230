"""One forward pass before any work starts: a model that cannot be called as the task does fails here, in words."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.errors import UnsupportedModelError
from gunlearn.losses import Prediction
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Task


@dataclass(frozen=True)
class Trial:
    """What a model returned in the trial pass, in evaluation mode and without gradients.

    Attributes:
        outputs: what `Task.encode` returned, for a task on a graph a row per node (or graph) `[num_rows, dim]`.
        prediction: of the items of `Task.trial_items`; `None` where the task tries none.
    """

    outputs: Any = None
    prediction: Prediction | None = None


def trial_pass(model: nn.Module, data: Any, task: Task) -> Trial:
    """Call a private copy of `model` on `data` once, as the task does, in evaluation mode; random states do not change.

    A compiled model runs uncompiled. A task that shares no pass and tries no items costs nothing.

    Raises:
        UnsupportedModelError: the model cannot be copied or called, or returns something else.
    """
    items = task.trial_items(data)
    if items is None and not task.shared_pass:
        return Trial()
    model = private_copy(getattr(model, "_orig_mod", model), task).eval()
    with isolated_rng(), torch.no_grad():
        outputs = task.encode(model, data)
        prediction = None if items is None else task.decode(model, outputs, items)
        task.check_trial(model, data, outputs)
    return Trial(outputs, prediction)


def private_copy(model: nn.Module, task: Task) -> nn.Module:
    """Return a deep copy of `model`, adapted by `Task.adopt`.

    Tensors with a gradient history that a forward pass left on a module (the means of PyG's `VGAE`) are copied without
    their history.
    """
    try:
        model = copy.deepcopy(model, _without_history(model))
    except (RuntimeError, TypeError) as error:
        raise UnsupportedModelError(
            f"Expected a model that can be copied (got: {error}); detach or delete tensors that a forward pass left "
            "on it"
        ) from error
    return task.adopt(model)


def _without_history(model: nn.Module) -> dict[int, Any]:
    """Return the memo of `deepcopy` with copies of the tensors that it refuses."""
    left = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    return {id(value): value.detach().clone() for value in left if not value.is_leaf}
