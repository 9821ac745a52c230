"""The truth of a study, computed or taken from an earlier call."""

from collections.abc import Mapping, MutableMapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gunlearn.attribution.study.setting import Measured, Setting
from gunlearn.attribution.study.truths import TrueValues, Truth
from gunlearn.attribution.training.retraining_influence import Train


def measured_truth(
    setting: Setting,
    truth: Truth,
    options: Mapping[str, Any],
    sample: Tensor | None,
    train: Train | None,
    finished: MutableMapping[str, Any] | None,
) -> Measured:
    """Return the truth with its cost, from `finished` where it is there; add it where it is not."""
    key = f"truth {sorted(options.items())}"
    kept = None if finished is None else finished.get(key)
    if kept is not None:
        return _restored(setting, sample, kept)
    true = setting.measure(lambda p: truth.compute(p, train, dict(options)), sample, warm=True)
    if finished is not None:
        finished[key] = _kept(true)
    return true


def _kept(true: Measured) -> dict[str, Any]:
    """Return the truth with its cost for `finished`."""
    values: TrueValues = true.result
    groups = None if values.groups is None else [group.tolist() for group in values.groups]
    row = {"seconds": true.seconds, "memory": true.memory, "notes": values.notes, "groups": groups}
    return {"row": row, "scores": values.values.cpu()}


def _restored(setting: Setting, sample: Tensor | None, kept: dict[str, Any]) -> Measured:
    """Return the truth of `_kept`."""
    row = kept["row"]
    groups = None if row["groups"] is None else [torch.tensor(group) for group in row["groups"]]
    true = setting.measure(lambda p: TrueValues(kept["scores"], groups, row["notes"]), sample)
    true.problem.notes.update(row["notes"])
    return replace(true, seconds=row["seconds"], memory=row["memory"])
