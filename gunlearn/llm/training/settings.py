"""Settings for a record: plain values, without secrets and without tokens of the forgotten rows."""

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
    """Return a setting in plain values for a record, mappings and sequences item by item.

    A value whose name ends in `token`, `key` or `password` becomes `"<hidden>"`, any other object the name of its type.
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
    """Return each loss of an objective with its weight and all fields; for several values in a field their number."""
    out = []
    for weight, loss in objective.terms:
        values = {field.name: getattr(loss, field.name) for field in dataclasses.fields(loss)}
        # Several values may be tokens of the forgotten rows.
        shown = {name: f"{len(v)} values" if _several(v) else recorded(v) for name, v in values.items()}
        out.append({"weight": weight, "loss": type(loss).__name__, **shown})
    return out


def _several(value: Any) -> bool:
    return not isinstance(value, str) and hasattr(value, "__len__") and getattr(value, "ndim", 1) > 0
