"""What names the training of a curve, so that a checkpoint of another one is refused."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from torch import nn

from gunlearn.connectivity.curve_settings import CurveSettings
from gunlearn.connectivity.weight_paths import WeightPath
from gunlearn.core.digest import content_hash, state_hash
from gunlearn.losses import Loss, Objective
from gunlearn.tasks.base import Task
from gunlearn.training.run import fingerprint_of


def curve_fingerprint(
    path: WeightPath,
    task: Task,
    partition: Any,
    data: Any,
    objective: Objective,
    settings: CurveSettings,
    *,
    original: nn.Module | None = None,
    seed: int = 0,
    held: Any = None,
    change: Any = None,
) -> str:
    """Return hashes of all that decides how a curve goes, in the form of `fingerprint_of`.

    Args:
        path: before it is trained: its kind, both ends, and where its bends begin.
        task: what the models predict.
        partition: what was forgotten, or `None`.
        data: what the models were trained on.
        objective: what is small along the curve.
        settings: of the training.
        original: the model that losses with a reference compare with; it counts where there are such losses.
        seed: of points and batches.
        held: see `find_curve`.
        change: see `find_curve`.
    """
    ends = [content_hash([w, b]) for w, b in zip(path.ends.weights, path.ends.buffers, strict=True)]
    compared = None if original is None or not objective.reference_parts else state_hash(original)
    request = None if partition is None else partition.request_hash
    told: list[Any] = ["curve", path.name, path.num_bends, path.moving, ends, state_hash(path), request]
    told += [[[weight, type(loss), _said(loss)] for weight, loss in objective.terms], compared]
    return fingerprint_of([*told, vars(settings), held, change], task, seed, path.template, data)


def _said(loss: Loss) -> Any:
    """Return a loss's settings without what it gathers while it runs, such as a running mean."""
    if is_dataclass(loss):
        return {field.name: getattr(loss, field.name) for field in fields(loss) if field.compare}
    return vars(loss)
