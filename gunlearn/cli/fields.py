"""Kinds of options, with their texts in the help."""

import dataclasses
import shlex
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


def command_line(name: str, options: Any, unnamed: tuple[str, ...] = ()) -> str:
    """Return the command that says the same: `gunlearn`, its name, and all options other than their defaults.

    Args:
        name: of the command.
        options: a dataclass of options, as tyro reads it.
        unnamed: names of files that must not be told; `FILE` stands for each.
    """
    words = ["gunlearn", name]
    for field in dataclasses.fields(options):
        value, flag = getattr(options, field.name), field.name.replace("_", "-")
        if value == field.default:
            continue
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif field.type in ("Pairs", Pairs):
            words += [word for pair in value for word in (f"--{flag}", pair)]
        else:
            shown = ["FILE"] if field.name in unnamed else value if isinstance(value, tuple) else [value]
            words += [f"--{flag}", *map(str, shown)]
    return shlex.join(words)
