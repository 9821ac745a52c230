"""Checkpoints: everything that a run needs to resume exactly."""

import os
import pickle
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from gunlearn.errors import CheckpointError
from gunlearn.seed import get_rng_state, set_rng_state
from gunlearn.training.callbacks import TrainState

NAME = "checkpoint.pt"


def save_checkpoint(directory: str | Path, fingerprint: str, state: TrainState, tensors: dict[str, Any]) -> Path:
    """Write a checkpoint atomically: a run killed while writing keeps the previous one.

    Only a run of the same `fingerprint` resumes from it; `tensors` are state dicts, and the best weights so far.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    rng = get_rng_state()
    name, keys, *rest = rng["numpy"]
    rng["numpy"] = (name, keys.tolist(), *rest)
    payload = {"fingerprint": fingerprint, "state": asdict(state), "rng": rng, **tensors}
    handle, temporary = tempfile.mkstemp(dir=directory, suffix=".part")
    os.close(handle)
    try:
        torch.save(payload, temporary)
        os.replace(temporary, directory / NAME)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return directory / NAME


def load_checkpoint(directory: str | Path, fingerprint: str) -> dict[str, Any] | None:
    """Read a checkpoint and restore the random state; return `None` if there is none.

    Raises:
        CheckpointError: the file is damaged or belongs to another run.
    """
    path = Path(directory) / NAME
    if not path.is_file():
        return None
    try:
        payload = torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, pickle.UnpicklingError, OSError) as error:
        raise CheckpointError(
            f"Expected a readable checkpoint (got a damaged {path}); delete it to start anew"
        ) from error
    if not isinstance(payload, dict) or payload.get("fingerprint") != fingerprint:
        raise CheckpointError(
            f"Expected a checkpoint of this very run (got one with other settings, data or request in {path}); "
            "delete it or choose another checkpoint directory"
        )
    set_rng_state(payload["rng"])
    payload["state"] = TrainState(**payload["state"])
    return payload


def delete_checkpoint(directory: str | Path) -> None:
    """Remove a finished run's checkpoint."""
    (Path(directory) / NAME).unlink(missing_ok=True)
