"""The result of an unlearning run, saved and loaded."""

from __future__ import annotations

import copy
import json
import platform
import warnings
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as weights_of
from safetensors.torch import save as as_bytes
from torch import Tensor, nn

from gunlearn.core.atomic import checksum, write_files
from gunlearn.core.behaviour import changes_since, code_of, settings_of
from gunlearn.core.detached import own_form
from gunlearn.core.owner_key import check_key_outside
from gunlearn.errors import ANYHOW, CheckpointError, InvalidTypeError, UnsupportedModelError
from gunlearn.training.training_state import FILE, TrainingState

RECORD, WEIGHTS = "result.json", "model.safetensors"
#: Notes that count what a request reaches: with the graph at hand, such numbers single out an edge. They stay here.
COUNTS = ("affected", "items", "neighbours", "propagation", "rows", "touched")


@dataclass
class Result:
    """An unlearned (or trained) model and the record of its run.

    Attributes:
        model: a new module in evaluation mode; the caller's own did not change.
        mode: its variant.
        seed: of the run; `None` for a model of unknown origin.
        request_hash: hash of the request under the owner's key, see `Partition`; `None` for a base model.
        epochs: passes over the items, the one in which the run ended included; `None` if the caller's function trained.
        seconds: wall time, influence estimate included, curves for reports left out.
        peak_memory_mb: peak memory while the method ran, in MiB; `None` if it could not be measured.
        history: one record per optimiser step, see `TrainState.log_history`.
        notes: remarks of the method.
        partition: the resolved request (not saved).
        original: a copy of the model before (not saved).
        training: the optimiser's state and checkpoints of a training (`TrainingState`), from which requests go on; also
            of an unlearned model whose method went on with its training (not saved: forgotten items went into it).
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
    training: TrainingState | None = None

    @property
    def data(self) -> Any:
        """Return the caller's data without the forgotten items; `None` for a loaded result."""
        retained = None if self.partition is None else self.partition.retain_data
        return own_form(retained)

    @property
    def unchanged(self) -> bool:
        """Return whether the run left all weights as they were, but for reset ones; `notes["why"]` says why."""
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
        """Return everything but tensors, live objects, forgotten rows, and counts of what the request reaches."""
        skip = {"model", "partition", "task", "original", "training", "tokenizer", "parts"}
        record = {name: value for name, value in self.__dict__.items() if name not in skip}
        return record | {"notes": written_notes(self.notes)}

    def save(self, directory: str | Path, node_ids: bool = False) -> Path:
        """Write weights (safetensors), a training's state and record (JSON, with checksums of all) into `directory`.

        A save that is interrupted leaves the result that was there, or one that `load` refuses.

        Args:
            directory: of the two files.
            node_ids: deletion operators (`gnndelete`, `inpo_s`) act on the nodes around what was forgotten. Their ids
                are sealed under the owner's key, and only its holder can load the result; with `True` they are listed,
                and everybody can load it and read them.

        Raises:
            InvalidInputError: the folder holds the owner's key.
            UnsupportedModelError: the model's state dict holds more than tensors.
            OutputError: the folder cannot be written; nothing is left then.
        """
        directory = Path(directory)
        check_key_outside(directory)
        state = self.model.state_dict()
        for name, value in state.items():
            if not isinstance(value, Tensor):
                raise UnsupportedModelError(
                    f"Expected tensors in the model's state_dict (got {type(value).__name__} in '{name}')"
                )
            if value.layout != torch.strided:
                raise UnsupportedModelError(
                    f"Expected dense tensors in the model's state_dict of a saved result (got '{name}' of "
                    f"layout {value.layout}); register it with persistent=False"
                )
        weights = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
        if node_ids and _with_operators(weights):
            from gunlearn.nn.attach.operators import listed_ids  # loads PyG, so only if needed

            weights |= listed_ids(self.model)
        content = as_bytes(weights)
        architecture = {"settings": settings_of(self.model), "code": code_of(self.model)}
        record = json.loads(json.dumps({**self.record(), "architecture": architecture}, default=_named))
        sums = {"weights": checksum(content), "record": _checksum(record)}
        kept = None if self.training is None or self.method != "train" else self.training.to_bytes()
        if kept is not None:
            sums["training"] = checksum(kept)
        text = json.dumps({**record, "checksums": sums}, indent=1)
        files = {WEIGHTS: content, **({} if kept is None else {FILE: kept}), RECORD: text.encode()}
        write_files({directory / name: data for name, data in files.items()})
        if kept is None:
            (directory / FILE).unlink(missing_ok=True)  # that of the model which was here before
        return directory

    @classmethod
    def load(cls, directory: str | Path, model: nn.Module, strict: bool = True) -> Result:
        """Read what `save` wrote into a copy of `model`, a module of the same architecture.

        Args:
            directory: that `save` wrote to.
            model: of the same classes with the same settings (activations, dropout, aggregations) as the saved one.
            strict: refuse a model whose settings or code differ from the saved one's; `False` warns of it.

        Raises:
            InvalidTypeError: no folder, or no module.
            CheckpointError: files are missing, damaged, of different results, or do not fit the model; or node ids are
                sealed under another key.
        """
        if not isinstance(directory, str | PathLike) or not isinstance(model, nn.Module):
            got = f"{type(directory).__name__} and {getattr(model, '__name__', type(model).__name__)}"
            raise InvalidTypeError(f"Expected a folder and a torch module, Result.load(folder, model) (got {got})")
        directory, model = Path(directory), copy.deepcopy(model)
        try:
            record, content = json.loads((directory / RECORD).read_text()), (directory / WEIGHTS).read_bytes()
            sums, architecture = record.pop("checksums", None), record.get("architecture")
            if sums is not None and sums["record"] != _checksum(record):
                raise ValueError(f"{RECORD} has changed since it was written")
            if sums is not None and sums["weights"] != checksum(content):
                raise ValueError(
                    f"{WEIGHTS} is not the file that {RECORD} was written for: damaged, or of another result"
                )
            training = None
            if sums is not None and "training" in sums:
                kept = (directory / FILE).read_bytes()
                if sums["training"] != checksum(kept):
                    raise ValueError(f"{FILE} is not the file that {RECORD} was written for")
                training = TrainingState.from_bytes(kept, FILE)
            record.pop("architecture", None)
            weights = weights_of(content)
            if _with_operators(weights):
                from gunlearn.nn.attach.operators import restore_operators  # loads PyG, so only if needed

                restore_operators(model, weights)
            _check_types(model, weights)
            model.load_state_dict(weights)
            _forget_caches(model)
            result = cls(model=model.eval(), training=training, **record)
            if architecture is not None:
                _check_architecture(model, architecture, result.versions, strict)
        except OSError as error:
            raise CheckpointError(
                f"Expected a saved result in {directory} (got no readable {error.filename or WEIGHTS})"
            ) from error
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise CheckpointError(
                f"Expected a saved result that fits {type(model).__name__} in {directory} (got: {error})"
            ) from error
        if sums is None:
            warnings.warn(
                f"the result in {directory} has no checksums (release 0.1): nothing shows whether its weights belong "
                "to its record; save it again once you have made sure",
                UserWarning,
                stacklevel=2,
            )
        return result

    def __repr__(self) -> str:
        cost = "" if self.epochs is None else f", {self.epochs} epochs"
        cost += "" if self.seconds is None else f", {self.seconds:.1f} s"
        path = f"; {self.notes['path']}" if "path" in self.notes else ""
        why = f"; {self.notes.get('why', 'the weights are unchanged')}" if self.unchanged else ""
        task = "" if self.task is None else f"{self.task.name}, "
        why += f"; {self.notes['collapsed'].rstrip('.')}" if "collapsed" in self.notes else ""
        return f"Result({self.method}, {self.mode}, {task}seed={self.seed}, forgot {self.num_forget}{cost}{path}{why})"


def written_notes(notes: dict[str, Any]) -> dict[str, Any]:
    """Return a method's remarks as they may be written: without counts that could single out what was forgotten."""
    kept = {name: value for name, value in notes.items() if name not in COUNTS}
    if isinstance(kept.get("graph"), str):
        kept["graph"] = kept["graph"].partition(", ")[0]  # "2-hop subgraph", not of how many nodes
    return kept


def _with_operators(weights: dict[str, Tensor]) -> bool:
    return any(belongs_to_operator(name) for name in weights)


def _checksum(record: dict[str, Any]) -> str:
    return checksum(json.dumps(record, sort_keys=True).encode())


def _named(value: Any) -> str:
    """Return a setting that JSON has no form for by its name."""
    return getattr(value, "__qualname__", None) or type(value).__name__


def _check_types(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Refuse weights that loading would round."""
    for name, own in (*model.named_parameters(), *model.named_buffers()):
        saved = weights.get(name)
        if saved is not None and saved.is_floating_point() and saved.dtype != own.dtype:
            raise ValueError(f"'{name}' of {saved.dtype}, and {own.dtype} in the model; convert the model first")


def _forget_caches(model: nn.Module) -> None:
    """Empty what layers with `cached=True` keep of the graph that the given model was called on."""
    for module in model.modules():
        if getattr(module, "cached", None) is True:
            vars(module).update({name: None for name in vars(module) if name.startswith("_cached")})


def _check_architecture(model: nn.Module, saved: dict[str, Any], made_by: dict[str, str], strict: bool) -> None:
    found = changes_since(saved, model, made_by.get("python", ""))
    if found and strict:
        raise ValueError(f"another model than was saved: {'; '.join(found[:3])}; {ANYHOW}")
    if found:
        warnings.warn(f"the model is another than was saved: {'; '.join(found[:3])}", UserWarning, stacklevel=3)


def versions() -> dict[str, str]:
    """Return the versions of python and of the packages that a figure depends on."""
    return dict(_versions())


def today() -> str:
    """Return the date in universal time, `2026-01-31`: without an hour, which no reader of a record needs."""
    return datetime.now(timezone.utc).date().isoformat()


@cache
def _versions() -> dict[str, str]:
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


def belongs_to_operator(name: str) -> bool:
    """Return whether a parameter or buffer of this name is part of a deletion operator, see `gnndelete`."""
    return ".deletions." in f".{name}"
