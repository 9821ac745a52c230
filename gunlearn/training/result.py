"""The result of an unlearning run, saved and loaded."""

from __future__ import annotations

import copy
import json
import platform
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from gunlearn.errors import CheckpointError

RECORD, WEIGHTS = "result.json", "model.safetensors"


@dataclass
class Result:
    """An unlearned (or trained) model and the record of its run.

    Attributes:
        model: a new module in evaluation mode; the caller's own did not change.
        mode: its variant.
        seed: of the run; `None` for a model of unknown origin.
        request_hash: hash of the request; `None` for a base model.
        epochs: passes over the items, the one in which the run ended included; `None` if the caller's function trained.
        seconds: wall time, influence estimate included, curves for reports left out.
        peak_memory_mb: peak memory while the method ran, in MiB; `None` if it could not be measured.
        history: one record per optimiser step, see `TrainState.log_history`.
        notes: remarks of the method.
        partition: the resolved request (not saved).
        original: a copy of the model before (not saved).
    """

    model: nn.Module
    method: str
    mode: str = "default"
    config: dict[str, Any] = field(default_factory=dict)
    seed: int | None = 0
    request_hash: str | None = None
    num_forget: int = 0
    epochs: int | None = 0
    seconds: float | None = None
    peak_memory_mb: float | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=lambda: versions())
    partition: Any = None
    task: Any = None
    original: nn.Module | None = None

    @property
    def data(self) -> Any:
        """Return the caller's data without the forgotten items; `None` for a loaded result."""
        retained = None if self.partition is None else self.partition.retain_data
        back = getattr(retained, "back", None)  # a table of items, converted from the caller's data
        return retained if back is None else back(retained)

    @property
    def unchanged(self) -> bool:
        """Return whether the model has the weights of the one before, bit for bit; `notes["why"]` says why."""
        return bool(self.notes.get("unchanged"))

    @property
    def seconds_per_epoch(self) -> float | None:
        """Return the mean wall time of an epoch, in seconds; `None` for a method without epochs."""
        return self.seconds / self.epochs if self.epochs and self.seconds is not None else None

    def cost(self) -> dict[str, float | None]:
        """Return the cost of the run, as figures of a row."""
        names = ("seconds", "seconds_per_epoch", "epochs", "peak_memory_mb")
        return {name: getattr(self, name) for name in names}

    def record(self) -> dict[str, Any]:
        """Return everything but tensors and live objects."""
        skip = {"model", "partition", "task", "original"}
        return {name: value for name, value in self.__dict__.items() if name not in skip}

    def save(self, directory: str | Path) -> Path:
        """Write weights (safetensors) and record (JSON) into `directory`."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        weights = {name: t.detach().cpu().contiguous().clone() for name, t in self.model.state_dict().items()}
        save_file(weights, directory / WEIGHTS)
        (directory / RECORD).write_text(json.dumps(self.record(), indent=1))
        return directory

    @classmethod
    def load(cls, directory: str | Path, model: nn.Module) -> Result:
        """Read what `save` wrote into a copy of `model`, a module of the same architecture.

        Raises:
            CheckpointError: files are missing, damaged, or do not fit the model.
        """
        directory, model = Path(directory), copy.deepcopy(model)
        try:
            record = json.loads((directory / RECORD).read_text())
            weights = load_file(directory / WEIGHTS)
            if any(".deletions." in f".{name}" for name in weights):
                from gunlearn.nn.attach.operators import restore_operators  # loads PyG, so only if needed

                restore_operators(model, weights)
            model.load_state_dict(weights)
            return cls(model=model.eval(), **record)
        except OSError as error:
            raise CheckpointError(
                f"Expected a saved result in {directory} (got no readable {error.filename or WEIGHTS})"
            ) from error
        except (RuntimeError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise CheckpointError(
                f"Expected a saved result that fits {type(model).__name__} in {directory} (got: {error})"
            ) from error

    def __repr__(self) -> str:
        cost = "" if self.epochs is None else f", {self.epochs} epochs"
        cost += "" if self.seconds is None else f", {self.seconds:.1f} s"
        path = f"; {self.notes['path']}" if "path" in self.notes else ""
        why = f"; {self.notes.get('why', 'the weights are unchanged')}" if self.unchanged else ""
        return f"Result({self.method}, {self.mode}, seed={self.seed}, forgot {self.num_forget}{cost}{path}{why})"


def versions() -> dict[str, str]:
    """Return the versions of python and of the packages that a figure depends on."""
    try:
        own = version("gunlearn")
    except PackageNotFoundError:
        own = "source tree"
    return {
        "gunlearn": own,
        "torch": torch.__version__,
        "torch_geometric": version("torch_geometric"),
        "python": platform.python_version(),
    }
