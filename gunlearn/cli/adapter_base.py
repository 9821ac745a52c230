"""Folders of peft's adapters, and the models below them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gunlearn.errors import InvalidInputError


def is_adapter(name: str) -> bool:
    """Return whether a folder holds an adapter of peft."""
    return (Path(name) / "adapter_config.json").is_file()


def model_below(name: str) -> str | None:
    """Return the folder or id of the model that an adapter's folder names; `None` where it names none."""
    if not is_adapter(name):
        return None
    config = json.loads((Path(name) / "adapter_config.json").read_text(encoding="utf-8"))
    found = config.get("base_model_name_or_path")
    return None if found is None else str(found)


def shrunk_towards(options: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return options of a method; where it shrinks the model of an adapter's folder, with the model below as `towards`.

    The command merges the adapter: shrinking all weights would take the pretrained ones along.

    Raises:
        InvalidInputError: the model below is in no folder here.
    """
    shrink = options.get("shrink", 1.0)
    if not is_adapter(name) or "towards" in options or not isinstance(shrink, int | float) or shrink >= 1:
        return dict(options)
    base = model_below(name)
    if base is None or not Path(base).is_dir():
        raise InvalidInputError(
            f"Expected 'towards', a folder with the weights below the adapter, beside 'shrink' (got {name}, whose "
            f"model is {base!r}, no folder here)"
        )
    return {**options, "towards": base}


def stays_adapter(name: str, peft: str | None, options: Mapping[str, Any]) -> bool:
    """Return whether the model of a folder is an adapter that stays one, and is shrunk towards its base.

    Others are merged first: shrinking them would take the pretrained weights along.

    Raises:
        InvalidInputError: an adapter that unlearning made: shrinking it would take that back.
    """
    shrink, towards = options.get("shrink", 1.0), options.get("towards")
    shrinks = towards == "base" or (towards is None and isinstance(shrink, int | float) and shrink < 1)
    if not is_adapter(name) or peft is not None or not shrinks:
        return False
    record = Path(name) / "unlearning.json"
    method = json.loads(record.read_text(encoding="utf-8"))["settings"]["method"] if record.is_file() else None
    if method not in (None, "continued_training"):
        raise InvalidInputError(
            f"Expected an adapter that fine-tuning made, to be shrunk (got {name}, which unlearning made by "
            f"{method or 'an objective'!r}: shrinking would take that back)"
        )
    return True
