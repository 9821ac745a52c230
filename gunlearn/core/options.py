"""Options: parse them from text, name those of a class, check the types of their values."""

import ast
import dataclasses
import json
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, Union, get_args, get_origin, get_type_hints

from gunlearn.errors import InvalidInputError

_WORDS = {"true": True, "false": False, "none": None, "null": None}  # beside Python's spelling
_KINDS: dict[Any, tuple[type, str]] = {
    bool: (bool, "True or False"),
    int: (Integral, "an integer"),
    float: (Real, "a number"),
    str: (str, "a text"),
}
#: Words for other types, and what else is read as one.
_OTHERS: dict[type, str] = {Mapping: "a mapping", Callable: "a function", tuple: "a tuple"}  # type: ignore[dict-item]
_ALSO: dict[type, tuple[type, ...]] = {tuple: (tuple, list)}


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return the end of an error message that names the nearest known name; empty where none is near."""
    close = get_close_matches(str(name), list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def parse_value(text: str) -> Any:
    """Return the value of a Python or JSON literal (`5`, `1e-3`, `None`, `true`, `[1, null]`), or the text itself."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for read in (ast.literal_eval, json.loads):
        try:
            return read(text)
        except (ValueError, SyntaxError, TypeError):
            continue
    return text


def parse_pair(argument: str, what: str) -> tuple[str, Any]:
    """Return key and value of `key=value` (`key=''` is an empty text); `what` names it in errors: `"--method-arg"`."""
    key, equals, text = argument.partition("=")
    if not equals or not key.strip() or not text.strip():
        raise InvalidInputError(f"Expected {what} key=value (got '{argument}')")
    return key.strip(), parse_value(text.strip())


def typed_options(arguments: Sequence[str], known: Mapping[str, Sequence[str]], what: str) -> dict[str, dict[str, Any]]:
    """Return the options of several methods or estimators, by their name.

    Args:
        arguments: `name.key=value` for one, or `key=value` for each that has the option.
        known: names of the options of each.
        what: the kind, for errors: `"method"`.
    """
    general: dict[str, dict[str, Any]] = {name: {} for name in known}
    specific: dict[str, dict[str, Any]] = {name: {} for name in known}
    for argument in arguments:
        key, value = parse_pair(argument, f"a {what} argument {what}.key=value or")
        name, dot, option = key.rpartition(".")
        if dot and name not in known:
            hint = did_you_mean(name, known)
            raise InvalidInputError(f"Expected a {what} argument of {sorted(known)} (got '{argument}'){hint}")
        meant = [name] if dot else list(known)
        takers = [taker for taker in meant if option in known[taker]]
        if not takers:
            listed = "; ".join(f"{taker}: {', '.join(known[taker]) or 'none'}" for taker in meant)
            hint = did_you_mean(option, dict.fromkeys(o for taker in meant for o in known[taker]))
            raise InvalidInputError(f"Expected an option of the chosen {what}s ({listed}) (got '{argument}'){hint}")
        for taker in takers:  # `name.key` wins over `key` in any order
            (specific if dot else general)[taker][option] = value
    return {name: general[name] | specific[name] for name in known}


def option_names(cls: type) -> tuple[str, ...]:
    """Return the names of a class's options: those of its `options()`, else the fields of the dataclass."""
    own = getattr(cls, "options", None)
    return tuple(own()) if callable(own) else tuple(f.name for f in dataclasses.fields(cls) if f.init)


def check_options(cls: type, options: Mapping[str, Any], name: str) -> None:
    """Refuse values of another type than the field of a dataclass has; `None` fits where it is the default."""
    try:
        hints = get_type_hints(cls)
    except NameError:  # an annotation for type checkers only
        return
    defaults = {f.name: f.default for f in dataclasses.fields(cls)}
    for option, value in options.items():
        if value is None and defaults.get(option, value) is None:
            continue
        expected = _mismatch(hints.get(option), value)
        if expected is not None:
            raise InvalidInputError(f"Expected '{option}' of '{name}' to be {expected} (got {value!r:.100})")


def _mismatch(hint: Any, value: Any) -> str | None:
    """Return the expected type in words; `None` where `value` fits or a type cannot be checked."""
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    words = []
    for kind in kinds:
        if kind is type(None):
            if value is None:
                return None
            words.append("None")
        elif kind in _KINDS:
            accepted, word = _KINDS[kind]
            if isinstance(value, accepted) and not (isinstance(value, bool) and kind is not bool):
                return None
            words.append(word)
        else:
            origin = get_origin(kind) or kind
            if not isinstance(origin, type) or origin in (object, Any):
                return None
            if callable(value) if origin is Callable else isinstance(value, _ALSO.get(origin, origin)):
                return None
            words.append(_OTHERS.get(origin, f"a {origin.__name__}"))
    return " or ".join(words)
