"""Checkpoints that a user's own training wrote: plain `torch.save`, Lightning, transformers' Trainer."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gunlearn.errors import CheckpointError
from gunlearn.training.training_state import Moment, TrainingState

_WEIGHTS = ("model", "model_state_dict", "state_dict", "weights", "net")
_OPTIMIZERS = ("optimizer", "optimizer_state_dict", "optimizer_states", "optim", "opt")
_STEPS = ("step", "global_step", "iteration", "iter", "steps")
_FILES = (".pt", ".pth", ".ckpt", ".bin", ".tar")


def read_checkpoints(folder: str | Path) -> TrainingState:
    """Read the checkpoints of a training: its end is the last one, the others are what `replay` may go back to.

    Args:
        folder: of files that hold weights (`"model_state_dict"`, ...), the optimiser's state
            (`"optimizer_state_dict"`, ...) and the step (`"step"`, `"global_step"`, ..., or the number in the file's
            name), as PyTorch's tutorials and Lightning write them; or of folders `checkpoint-500`, as transformers'
            Trainer does. Files are read without running code from them.

    Raises:
        CheckpointError: no checkpoint, one that cannot be read or lacks one of the three, or two of one step.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"Expected a folder of checkpoints (got no folder {folder})")
    entries = sorted(folder.iterdir())
    trainers = [path for path in entries if path.is_dir() and re.fullmatch(r"checkpoint-\d+", path.name)]
    files = [path for path in entries if path.is_file() and path.suffix in _FILES]
    moments = [_of_trainer(path) for path in trainers] or [_of_file(path) for path in files]
    moments.sort(key=lambda moment: moment.step)
    steps = [moment.step for moment in moments]
    if not moments or len(set(steps)) < len(steps):
        raise CheckpointError(f"Expected checkpoints of different steps in {folder} (got steps {steps})")
    last = moments[-1]
    return TrainingState(last.step, last.step, "", last.optimizer, moments=tuple(moments))


def _load(path: Path) -> Any:
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"Expected a checkpoint of tensors and plain values in {path} (got: {reason}); save state dicts, not "
            "objects"
        ) from error


def _of_file(path: Path) -> Moment:
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
    number = re.findall(r"\d+", path.stem)
    if step is None and not number:
        raise CheckpointError(f"Expected the step under one of {_STEPS}, or in the name of {path.name} (got neither)")
    return Moment(int(found[step]) if step is not None else int(number[-1]), _named(found[weights]), state)


def _of_trainer(path: Path) -> Moment:
    """Read a folder that transformers' Trainer wrote."""
    safe, old = path / "model.safetensors", path / "pytorch_model.bin"
    try:
        weights = load_file(safe) if safe.is_file() else _load(old)
        step = json.loads((path / "trainer_state.json").read_text())["global_step"]
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"Expected a checkpoint of transformers' Trainer in {path} (got: {error})") from error
    return Moment(int(step), dict(weights), _load(path / "optimizer.pt"))


def _named(weights: Any) -> dict[str, Tensor]:
    """Return weights by the model's own names: Lightning and DDP write the name of what holds the model before them."""
    names = list(weights)
    first = names[0].split(".")[0] if names else ""
    if first in ("model", "module", "net", "_orig_mod") and all(name.startswith(f"{first}.") for name in names):
        return {name.removeprefix(f"{first}."): value for name, value in weights.items()}
    return dict(weights)
