"""Settings as they are recorded: plain values, no secrets, and no tokens of what was forgotten."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from gunlearn.losses import Objective

SECRETS = ("token", "key", "password")
HIDDEN = "<hidden>"


def recorded(value: Any) -> Any:
    """A setting as it goes into a record, whatever it holds.

    Args:
        value: mappings and sequences are gone through.

    Returns:
        Plain values; `"<hidden>"` for those whose name ends in `token`, `key` or `password`, and the name of its type
        for what has no plain value.
    """
    if isinstance(value, Mapping):
        return {
            str(name): HIDDEN if inner is not None and str(name).lower().endswith(SECRETS) else recorded(inner)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [recorded(inner) for inner in (value if isinstance(value, list | tuple) else sorted(value, key=str))]
    if isinstance(value, PathLike):
        return Path(value).as_posix()
    return value if value is None or isinstance(value, str | bool | int | float) else type(value).__name__


def recorded_losses(objective: Objective) -> list[dict[str, Any]]:
    """Each loss of an objective with its weight and all its fields; of fields with several values their number."""
    out = []
    for weight, loss in objective.terms:
        values = {field.name: getattr(loss, field.name) for field in dataclasses.fields(loss)}
        # Several values may be tokens of what was forgotten.
        shown = {name: f"{len(v)} values" if _several(v) else recorded(v) for name, v in values.items()}
        out.append({"weight": weight, "loss": type(loss).__name__, **shown})
    return out


def _several(value: Any) -> bool:
    return not isinstance(value, str) and hasattr(value, "__len__") and getattr(value, "ndim", 1) > 0
