"""Options of methods as a user types them: `key=value` and `method.key=value`."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from gunlearn.errors import InvalidInputError
from gunlearn.methods import METHODS

_WORDS = {"true": True, "false": False, "none": None}  # `literal_eval` knows the capitalised ones alone


def parse_value(text: str) -> Any:
    """A python literal where it is one (`5`, `1e-3`, `None`, `[1, 2]`), else the text itself."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def method_options(arguments: Sequence[str], methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Options of each method.

    Args:
        arguments: `method.key=value` for one method, or `key=value` for each method that has the option. Retraining
            follows the base model's recipe, so that it takes none.
        methods: names of the chosen methods.

    Returns:
        Options by method.

    Raises:
        InvalidInputError: no `=`, a method that was not chosen, an option that none of them has.
    """
    for argument in arguments:
        if argument.partition("=")[0].strip().startswith("retrain."):
            raise InvalidInputError(
                f"Expected retraining's settings as those of the base model, such as --epochs (got '{argument}')"
            )
    known = {name: METHODS[name].options() for name in methods if name != "retrain"}
    return {name: {} for name in methods} | typed_options(arguments, known, "method")


def typed_options(arguments: Sequence[str], known: Mapping[str, Sequence[str]], what: str) -> dict[str, dict[str, Any]]:
    """Options of each of several things of a kind.

    Args:
        arguments: `name.key=value` for one, or `key=value` for each that has the option.
        known: the options of each.
        what: the kind, for errors: `"method"`.

    Returns:
        Options by name.

    Raises:
        InvalidInputError: no `=`, an unknown name, an option that none of them has.
    """
    out: dict[str, dict[str, Any]] = {name: {} for name in known}
    specific: dict[str, dict[str, Any]] = {name: {} for name in known}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        name, dot, option = key.strip().rpartition(".")
        if not equals or not option:
            raise InvalidInputError(f"Expected a {what} argument key=value or {what}.key=value (got '{argument}')")
        if dot and name not in known:
            raise InvalidInputError(f"Expected a {what} argument of {sorted(known)} (got '{argument}')")
        takers = [taker for taker in ([name] if dot else known) if option in known[taker]]
        if not takers:
            listed = "; ".join(f"{n}: {', '.join(known[n]) or 'none'}" for n in ([name] if dot else known))
            raise InvalidInputError(f"Expected an option of the chosen {what}s ({listed}) (got '{argument}')")
        for taker in takers:  # the one said for it alone wins, whatever the order
            (specific if dot else out)[taker][option] = parse_value(text.strip())
    return {name: {**out[name], **specific[name]} for name in out}
