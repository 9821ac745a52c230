"""Paths on disk: the ends, the bends, and what kind of path it is."""

from __future__ import annotations

import json
import platform
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as weights_of
from safetensors.torch import save as as_bytes
from torch import Tensor, nn

from gunlearn.connectivity.ends_of_paths import module_of
from gunlearn.connectivity.path_families import WEIGHT_PATHS, make_path
from gunlearn.connectivity.same_architecture import changed_data, data_of, listed
from gunlearn.connectivity.weight_paths import WeightPath
from gunlearn.core.atomic import checksum, write_files
from gunlearn.core.behaviour import changes_since, code_of, settings_of
from gunlearn.core.checks import check_choice, check_folder_path, check_integer, is_finite
from gunlearn.errors import ANYHOW, CheckpointError, GunlearnError, InvalidTypeError, UnsupportedModelError
from gunlearn.tasks.trial import plain_copy
from gunlearn.training.result import belongs_to_operator

_RECORD, _WEIGHTS = "path.json", "path.safetensors"


def save_path(path: WeightPath, directory: str | Path) -> Path:
    """Write a path into a folder: its ends and bends (safetensors), and its kind (JSON).

    Ends hold what the models learned, the original one's included; keep them where you keep the models.

    Raises:
        OutputError: the folder cannot be written.
        UnsupportedModelError: deletion operators, whose node ids everybody could read (save the results instead), or a
            path with a `child`.
    """
    if not isinstance(path, WeightPath):
        held = "; pass its 'path'" if isinstance(getattr(path, "path", None), WeightPath) else ""
        raise InvalidTypeError(f"Expected a path to store (got {type(path).__name__}){held}")
    directory = _folder(directory)
    if path.child is not None:
        raise UnsupportedModelError(
            "Expected a path of plain weights to store (got one whose models a 'child' changes)"
        )
    operators = [name for name in path.ends.weights[0] if belongs_to_operator(name)]
    if operators:
        raise UnsupportedModelError(
            f"Expected a path without deletion operators to store, since their node ids tell what was forgotten (got "
            f"'{operators[0]}'); save the results at its ends instead"
        )
    tensors: dict[str, Tensor] = {}
    for k in range(path.num_bends + 2):
        tensors |= {f"{k}:{name}": value for name, value in path.point(k).items()}
    for end, buffers in enumerate(path.ends.buffers):
        tensors |= {f"buffer {end}:{name}": value for name, value in buffers.items()}
    content = as_bytes({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()})
    record = {
        "kind": path.name,
        "num_bends": path.num_bends,
        "settings": settings_of(path.template),
        "data": data_of(path.template),
        "code": code_of(path.template),
        "python": platform.python_version(),
        "frozen": sorted(set(path.ends.weights[0]) - set(path.moving)),
        "checksum": checksum(content),
    }
    record["own_checksum"] = _own_checksum(record)
    files = {directory / _WEIGHTS: content, directory / _RECORD: (json.dumps(record, indent=1) + "\n").encode()}
    write_files(files)
    return directory


def remove_path(directory: str | Path) -> None:
    """Remove what `save_path` wrote into a folder, and the folder where nothing else is in it."""
    directory = _folder(directory)
    with suppress(OSError, ValueError):  # there is none, or somebody else's files are in it
        record = json.loads((directory / _RECORD).read_text("utf-8"))
        if isinstance(record, dict) and "own_checksum" in record:
            for name in (_RECORD, _WEIGHTS):
                (directory / name).unlink()
            directory.rmdir()


@torch.no_grad()
def load_path(directory: str | Path, model: nn.Module, strict: bool = True) -> WeightPath:
    """Read what `save_path` wrote.

    Args:
        directory: that `save_path` wrote to.
        model: of the same architecture, compiled or not; it does not change. Weights that the path keeps are frozen in
            the path's own models, the others are not, whatever they are in `model`.
        strict: refuse a model whose settings, code or data in plain attributes are others than the path's; `False`
            warns. A tensor that a pass leaves on a module counts as such data.

    Raises:
        CheckpointError: files are missing, damaged, or do not fit the model.
        InvalidTypeError: no module, or no path of a folder.

    Warns:
        UserWarning: the model is another, with `strict=False`.
    """
    directory, plain = _folder(directory), module_of(model)
    try:
        record, content = json.loads((directory / _RECORD).read_text("utf-8")), (directory / _WEIGHTS).read_bytes()
        if not isinstance(record, dict) or record.get("own_checksum") != _own_checksum(record):
            raise ValueError(f"{_RECORD} was changed after it was written")
        if record["checksum"] != checksum(content):
            raise ValueError(f"{_WEIGHTS} is not the file that {_RECORD} was written for")
        bends, kind = record["num_bends"], record["kind"]
        check_choice("kind", kind, tuple(WEIGHT_PATHS))
        check_integer("num_bends", bends, minimum=0)
        _check_model(plain, record, strict)
        tensors = weights_of(content)
        _check_tensors(tensors, _tensors(plain, bends))
        ends, frozen = [plain_copy(plain) for _ in range(2)], set(record["frozen"])
        for end, one in enumerate(ends):
            for name, parameter in one.named_parameters():
                parameter.requires_grad_(name not in frozen).copy_(tensors[f"{end * (bends + 1)}:{name}"])
            for name, buffer in one.named_buffers():
                buffer.copy_(tensors[f"buffer {end}:{name}"])
        path = make_path(kind, ends[0], ends[1], bends)
        for k in range(1, bends + 1):
            for name in path.moving:
                path.point(k)[name].copy_(tensors[f"{k}:{name}"])
    except OSError as error:
        raise CheckpointError(f"Expected a saved path in {directory} (got no readable {error.filename})") from error
    except (RuntimeError, ValueError, KeyError, TypeError, SafetensorError, GunlearnError) as error:
        raise CheckpointError(
            f"Expected a saved path that fits {type(model).__name__} in {directory} (got: {error})"
        ) from error
    return path


def _folder(directory: Any) -> Path:
    check_folder_path("directory", directory)
    return Path(directory or ".")


def _own_checksum(record: dict[str, Any]) -> str:
    """Return the checksum of what a record says, its own aside."""
    said = {name: value for name, value in record.items() if name != "own_checksum"}
    return checksum(json.dumps(said, sort_keys=True).encode())


def _tensors(model: nn.Module, bends: int) -> dict[str, Tensor]:
    """Return by the names of a file the tensors of a model that its must be like."""
    like = {f"{k}:{name}": value for k in range(bends + 2) for name, value in model.named_parameters()}
    return like | {f"buffer {end}:{name}": value for end in range(2) for name, value in model.named_buffers()}


def _check_model(model: nn.Module, record: dict[str, Any], strict: bool) -> None:
    """Raise ValueError for a model with other settings, data or code than the path's, or warn of it."""
    found = changes_since(record, model, record["python"]) + changed_data(data_of(model), record["data"])
    if found and strict:
        raise ValueError(f"{'; '.join(found[:3])}; {ANYHOW}")
    if found:
        warnings.warn(f"the model is another than the path's: {'; '.join(found[:3])}", UserWarning, stacklevel=3)


def _check_tensors(saved: dict[str, Tensor], like: dict[str, Tensor]) -> None:
    """Raise ValueError for other names, shapes or types than the model's, and for NaN."""
    if only := sorted(saved.keys() ^ like.keys()):
        raise ValueError(f"{listed(only)} are in the file or in the model alone")
    for name, value in sorted(saved.items()):  # a file has no order
        for what in ("shape", "dtype"):
            if getattr(value, what) != getattr(like[name], what):
                raise ValueError(f"{what} of '{name}' is {getattr(value, what)}, and {getattr(like[name], what)} there")
        if not is_finite(value):
            raise ValueError(f"NaN or infinity in '{name}'")
