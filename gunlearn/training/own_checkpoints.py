"""Checkpoints that a user's own training wrote: plain `torch.save`, Lightning, transformers' Trainer."""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gunlearn.core.printable import reason_of
from gunlearn.errors import CheckpointError
from gunlearn.training.checkpoint_weights import without_holder
from gunlearn.training.one_training import check_one_training
from gunlearn.training.optimizer_state import steps_counted
from gunlearn.training.training_state import Moment, TrainingState

_WEIGHTS = ("model", "model_state_dict", "state_dict", "weights", "net")
_OPTIMIZERS = ("optimizer", "optimizer_state_dict", "optimizer_states", "optim", "opt")
_STEPS = ("step", "global_step", "iteration", "iter", "steps")
_TRAINER = "trainer_state.json"
_FILES = (".pt", ".pth", ".ckpt", ".bin", ".tar")


@dataclass(frozen=True)
class _Read:
    """What a checkpoint holds; `said` is a number in its entry `by`, or in its name."""

    path: Path
    weights: dict[str, Tensor]
    optimizer: Mapping[str, Any]
    said: int | None
    by: str

    @property
    def steps(self) -> int | None:
        """Return the steps that the optimiser counted."""
        return steps_counted(self.optimizer)


def read_checkpoints(source: str | Path) -> TrainingState:
    """Read the checkpoints of a training: its end is the last one, the others are what `replay` may go back to.

    Args:
        source: a folder of files that hold weights (`"model_state_dict"`, ...) and the optimiser's state
            (`"optimizer_state_dict"`, ...), as PyTorch's tutorials and Lightning write them; or of folders
            `checkpoint-500`, as transformers' Trainer does; or one of these, the end of the training. The steps are
            those that the optimiser counted; of one that counts none (SGD), the number under `"step"`,
            `"global_step"`, ..., or else in the file's name. Files are read without running code from them; a warning
            names what is no such checkpoint.

    Raises:
        CheckpointError: no checkpoint, the last one cannot be read, nothing tells their steps, or they are of two
            trainings.
    """
    source = Path(source)
    if not source.exists():
        raise CheckpointError(f"Expected a folder of checkpoints (got no folder {source})")
    found = _all_in(source)
    counts = any(one.steps is not None for one in found)
    moments: dict[int, Moment] = {}
    order: dict[str, list[tuple[int, int]]] = {}
    for one in found:
        step = _steps_of(one, counts)
        same = moments.setdefault(step, Moment(step, one.weights, dict(one.optimizer)))
        if not _same(same.weights, one.weights):  # else a copy: last.ckpt, best.pt
            raise CheckpointError(
                f"Expected checkpoints of different steps in {source} (got two of step {step}, {one.path.name} and "
                "another, with different weights)"
            )
        if one.by in (*_STEPS, "epoch") and one.said is not None:
            order.setdefault(one.by, []).append((step, one.said))
    for pairs in order.values():  # steps among steps, epochs among epochs
        said = [number for _, number in sorted(pairs)]
        if said != sorted(said):
            raise CheckpointError(
                f"Expected checkpoints of one optimiser in {source} (got some whose optimiser counts steps "
                f"{[step for step, _ in sorted(pairs)]} at {said}, as if it was made anew in between); keep the later "
                "ones"
            )
    last, ordered = max(moments), tuple(moments[k] for k in sorted(moments))
    check_one_training(ordered, source)
    return TrainingState(last, last, "", moments[last].optimizer, moments=ordered)


def _steps_of(one: _Read, counts: bool) -> int:
    """Return the steps before a checkpoint: those its optimiser counted, else those it says."""
    if one.steps is not None:
        return one.steps
    if counts and not one.optimizer["state"]:  # before the first step
        return 0
    if one.said is None or "epoch" in one.by:
        raise CheckpointError(
            f"Expected the step under one of {_STEPS} in {one.path}, whose optimiser does not count its steps (got "
            "epochs alone); save the steps that were taken as 'step'"
        )
    return one.said


def _same(weights: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    weights, others = without_holder(weights), without_holder(others)
    return weights.keys() == others.keys() and all(torch.equal(value, others[name]) for name, value in weights.items())


def _all_in(source: Path) -> list[_Read]:
    """Read all checkpoints of a folder, or the one that it is."""
    if source.is_file():
        return [_of_file(source)]
    if (source / _TRAINER).is_file():
        return [_of_trainer(source)]
    entries = sorted(source.iterdir())
    trainers = [path for path in entries if path.is_dir() and re.fullmatch(r"checkpoint-\d+", path.name)]
    files = [path for path in entries if path.is_file() and path.suffix in _FILES]
    found, left = [], dict[Path, CheckpointError]()
    for path in trainers or files:
        try:
            found.append(_of_trainer(path) if trainers else _of_file(path))
        except CheckpointError as error:
            left[path] = error
        except Exception as error:  # whatever a damaged or foreign file makes of torch's reader
            left[path] = CheckpointError(f"Expected a checkpoint in {path} (got {type(error).__name__}: {error})")
    newest = max(left, key=lambda path: _last_number(path.stem), default=None)
    if newest is not None and _last_number(newest.stem) > max(
        (_last_number(one.path.stem) for one in found), default=-2
    ):
        raise left[newest]  # it may be the end of the training
    if not found:
        raise CheckpointError(f"Expected checkpoints in {source} (got none)")
    if left:
        what = "; ".join(f"{path.name}: {error}" for path, error in left.items())
        warnings.warn(f"left out of the checkpoints in {source}, {what}", UserWarning, stacklevel=4)
    return found


def _last_number(name: str) -> int:
    """Return the last number in a name, -1 where there is none."""
    return int((re.findall(r"\d+", name) or [-1])[-1])


def _load(path: Path) -> Any:
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        reason = reason_of(error)
        raise CheckpointError(
            f"Expected a checkpoint of tensors and plain values in {path} (got: {reason}); save state dicts, not "
            "objects"
        ) from error


def _of_file(path: Path) -> _Read:
    """Read one file."""
    found = _load(path)
    if not isinstance(found, Mapping):
        raise CheckpointError(f"Expected a dictionary in {path} (got {type(found).__name__})")
    weights, optimizer, step = (
        next((n for n in names if n in found), None) for names in (_WEIGHTS, _OPTIMIZERS, _STEPS)
    )
    missing = [
        f"{what} under one of {names}"
        for what, key, names in (("weights", weights, _WEIGHTS), ("the optimiser's state", optimizer, _OPTIMIZERS))
        if key is None or not found[key]
    ]
    if missing:
        raise CheckpointError(f"Expected {' and '.join(missing)} in {path} (got keys {sorted(map(str, found))[:8]})")
    state = found[optimizer][0] if isinstance(found[optimizer], list | tuple) else found[optimizer]
    if not isinstance(state, Mapping) or "state" not in state:
        raise CheckpointError(f"Expected an optimiser's state_dict under '{optimizer}' in {path} (got another value)")
    by, said = _number_of(found, step, path.stem.lower())
    if said is None and steps_counted(state) is None:
        raise CheckpointError(f"Expected the step under one of {_STEPS}, or in the name of {path.name} (got neither)")
    return _Read(path, dict(found[weights]), state, said, by)


def _number_of(found: Mapping[str, Any], step: str | None, name: str) -> tuple[str, int | None]:
    """Return by what a file says how far training was, and the number."""
    key = step if step is not None else "epoch" if "epoch" in found and "step" not in name else None
    if key is not None:
        return key, int(found[key])
    number = _last_number(name)
    by = "epoch in the name" if "epoch" in name and "step" not in name else "name"
    return by, None if number < 0 else number


def _of_trainer(path: Path) -> _Read:
    """Read a folder that transformers' Trainer wrote."""
    safe, old = path / "model.safetensors", path / "pytorch_model.bin"
    if (path / "adapter_model.safetensors").is_file() and not (safe.is_file() or old.is_file()):
        raise CheckpointError(
            f"Expected a checkpoint of a whole model in {path} (got an adapter's; its training is told by its learning "
            "rate, lr=, and by towards='base')"
        )
    try:
        weights = load_file(safe) if safe.is_file() else _load(old)
        step = json.loads((path / _TRAINER).read_text())["global_step"]
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"Expected a checkpoint of transformers' Trainer in {path} (got: {error})") from error
    return _Read(path, dict(weights), _load(path / "optimizer.pt"), int(step), "global_step")
