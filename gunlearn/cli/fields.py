"""Kinds of options, with their texts in the help."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

# Replace `{None}|PATH` and `(default: None)` in the help.
Folder = Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")]
Whole = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")]
Wholes = Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...", help_behavior_hint="")]
Real = Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="")]
Reals = Annotated[tuple[float, ...], tyro.conf.arg(metavar="FLOAT ...", help_behavior_hint="")]
Text = Annotated[str | None, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")]
Texts = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="")]
Pairs = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY=VALUE")]
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")]
Variants = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME[:VARIANT] ...")]


def same_named(options: object, target: type) -> dict[str, Any]:
    """Return the options for which `target`, a dataclass, has a field of the same name."""
    return {f.name: getattr(options, f.name) for f in dataclasses.fields(target) if hasattr(options, f.name)}
