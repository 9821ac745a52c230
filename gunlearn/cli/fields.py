"""Kinds of options, with their texts in the help."""

import dataclasses
import re
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path, PureWindowsPath
from typing import Annotated, Any

import tyro

from gunlearn.core.options import parse_value

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


def command_line(name: str, options: Any, placeholders: Mapping[str, str], paths: Collection[str] = ()) -> str:
    """Return the command that says the same: `gunlearn`, its name, and all options other than their defaults.

    Of a `KEY=VALUE` whose value may be a path, `PATH` stands for the value.

    Args:
        name: of the command.
        options: a dataclass of options, as tyro reads it.
        placeholders: what stands for the values that must not be told, by field.
        paths: fields whose values are names or paths; of a path, its last part is told.
    """
    words = ["gunlearn", name]
    for field in dataclasses.fields(options):
        value, flag = getattr(options, field.name), field.name.replace("_", "-")
        if value == field.default:
            continue
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif field.type in ("Pairs", Pairs):
            words += [word for pair in value for word in (f"--{flag}", _told(pair))]
        else:
            shown = value if isinstance(value, tuple) else (value,)
            if field.name in placeholders:
                shown = (placeholders[field.name],)
            elif field.name in paths:
                shown = tuple(PureWindowsPath(path).name or "PATH" for path in shown)  # `/` and the other slash
            words += [f"--{flag}", *map(str, shown)]
    return shlex.join(words)


def _told(pair: str) -> str:
    """Return `key=value`, with `PATH` in place of a value that may be a path or holds one."""
    key, equals, text = pair.partition("=")
    return f"{key}={'PATH' if _may_be_a_path(parse_value(text.strip())) else text}" if equals else pair


def _may_be_a_path(value: Any) -> bool:
    """Whether a value is, or holds, a text that is no plain word, or the name of a file that is there."""
    if isinstance(value, str):
        return not re.fullmatch(r"[\w+-]*", value) or bool(value and Path(value).exists())
    if isinstance(value, Mapping):
        return any(map(_may_be_a_path, [*value, *value.values()]))
    if isinstance(value, list | tuple | set):
        return any(map(_may_be_a_path, value))
    return isinstance(value, bytes)
