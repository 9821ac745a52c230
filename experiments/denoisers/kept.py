"""Weights that are computed once and kept in a file."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

import gunlearn as gu


def kept(
    name: str, content: Any, model: nn.Module, make: Callable[[nn.Module], nn.Module], folder: Path | None = None
) -> nn.Module:
    """Return `make(model)`, or `model` with the weights that it gave before.

    Args:
        name: of the file.
        content: what the weights depend on, told apart by its `repr`; versions are added.
        model: a new one, whose weights may be replaced.
        make: trains or unlearns, and returns a model of the same shapes.
        folder: of the files; by default the one that GUNLEARN_TEST_CACHE names, and none where it names none.
    """
    known = os.environ.get("GUNLEARN_TEST_CACHE")
    folder = folder or (Path(known) if known else None)
    if folder is None:
        return make(model).eval()
    digest = hashlib.sha256(repr((content, torch.__version__, gu.__version__)).encode()).hexdigest()[:16]
    path = folder / f"{name}-{digest}.safetensors"
    if not path.exists():
        found = make(model).state_dict()
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        save_file({key: value.contiguous() for key, value in found.items()}, part)
        part.replace(path)
    model.load_state_dict(load_file(path))
    return model.eval()
