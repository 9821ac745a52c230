"""Checkpoints: everything that a run needs to resume exactly."""

import io
import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from gunlearn.core.atomic import replace_file
from gunlearn.core.digest import content_hash
from gunlearn.core.owner_key import VARIABLE
from gunlearn.core.printable import reason_of
from gunlearn.errors import CheckpointError, InvalidTypeError
from gunlearn.seed import get_rng_state, set_rng_state
from gunlearn.training.callbacks import TrainState

NAME = "checkpoint.pt"


def save_checkpoint(directory: str | Path, fingerprint: str, state: TrainState, tensors: dict[str, Any]) -> Path:
    """Write a checkpoint atomically: a run killed while writing keeps the previous one.

    Only a run of the same `fingerprint` (see `fingerprint_of`) resumes from it; `tensors` are state dicts, and the best
    weights so far. A hash of the content shows whether it changed.

    Raises:
        InvalidTypeError: a callback's state holds more than tensors and plain values.
    """
    if tensors.get("callbacks"):
        check_plain(tensors["callbacks"])
    rng = get_rng_state()
    name, keys, *rest = rng["numpy"]
    rng["numpy"] = (name, keys.tolist(), *rest)
    payload = {"fingerprint": fingerprint, "state": asdict(state), "rng": rng, **tensors}
    payload["hash"] = content_hash(payload)
    return replace_file(Path(directory) / NAME, lambda beside: torch.save(payload, str(beside)))


def check_plain(states: Any) -> None:
    """Refuse states of callbacks that could be saved, but not loaded without running code."""
    buffer = io.BytesIO()
    torch.save(states, buffer)
    buffer.seek(0)
    try:
        torch.load(buffer, weights_only=True)
    except pickle.UnpicklingError as error:
        reason = reason_of(error)
        raise InvalidTypeError(
            f"Expected tensors and plain values from 'state_dict' of each callback, for checkpoints (got: {reason})"
        ) from error


def load_checkpoint(directory: str | Path, fingerprint: str) -> dict[str, Any] | None:
    """Read a checkpoint and restore the random state; return `None` if there is none.

    Raises:
        CheckpointError: the file is damaged, has changed since it was written, or belongs to another run.
    """
    path = Path(directory) / NAME
    if not path.is_file():
        return None
    try:
        payload = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # bytes that changed make torch and zipfile fail in any way
        raise CheckpointError(
            f"Expected a readable checkpoint (got a damaged {path}); delete it to start again"
        ) from error
    if not isinstance(payload, dict) or payload.pop("hash", None) != content_hash(payload):
        raise CheckpointError(
            f"Expected an unchanged checkpoint of this run (got other content in {path}: damaged, or "
            "of release 0.1); delete it to start again"
        )
    if payload.get("fingerprint") != fingerprint:
        differs = ", ".join(_differences(str(payload.get("fingerprint")), fingerprint))
        raise CheckpointError(
            f"Expected a checkpoint of this run (got one with other {differs or 'settings'} in {path}); "
            "delete it or choose another checkpoint directory"
        )
    set_rng_state(payload["rng"])
    payload["state"] = TrainState(**payload["state"])
    return payload


def _differences(saved: str, wanted: str) -> list[str]:
    """Return the names of the parts, `name:hash`, in which two fingerprints differ."""
    one, other = (dict(part.split(":", 1) for part in text.split() if ":" in part) for text in (saved, wanted))
    names = [name for name in other if one.get(name) != other[name]]
    return [f"owner's key, see {VARIABLE}"] if "key" in names and len(one) == len(other) else names


def delete_checkpoint(directory: str | Path) -> None:
    """Remove a finished run's checkpoint."""
    (Path(directory) / NAME).unlink(missing_ok=True)
