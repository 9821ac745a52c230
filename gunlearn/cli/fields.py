"""Kinds of options, with their texts in the help."""

import dataclasses
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Annotated, Any

import tyro

from gunlearn.core.options import parse_pair, parse_value
from gunlearn.errors import InvalidInputError

#: Options of commands that set transformers' `TrainingArguments`, by the name of these.
OWN_ARGUMENTS = {
    "learning_rate": "lr",
    "num_train_epochs": "epochs",
    "output_dir": "out",
    "per_device_train_batch_size": "batch-size",
    "use_cpu": "device",
}
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


def check_numbers(options: object, least: Mapping[str, int] | None = None, positive: Collection[str] = ()) -> None:
    """Refuse numbers out of range by the name of the option, before a model is loaded; `None` is a default.

    Args:
        options: a dataclass of options.
        least: least value of fields that are whole numbers.
        positive: fields that are numbers above 0.
    """
    from gunlearn.core.checks import check_integer, check_number  # loads torch

    for name, minimum in (least or {}).items():
        if getattr(options, name) is not None:
            check_integer(f"--{name.replace('_', '-')}", getattr(options, name), minimum=minimum)
    for name in positive:
        if getattr(options, name) is not None:
            check_number(f"--{name.replace('_', '-')}", getattr(options, name), positive=True)


def training_arguments(pairs: Sequence[str], own: Mapping[str, str], command: str) -> dict[str, Any]:
    """Return the values of `--training-arg`, by name; refuse those that an option of the command sets.

    Args:
        pairs: `key=value`.
        own: options of the command, by the name of the argument that each sets.
        command: the command's name, for errors.
    """
    found = dict(parse_pair(pair, "--training-arg") for pair in pairs)
    clash = sorted(own.keys() & found)
    if clash:
        raise InvalidInputError(
            f"Expected --{own[clash[0]]}, an option of 'gunlearn {command}' (got {clash[0]} as --training-arg)"
        )
    return found


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
