"""Options of methods as a user types them: `key=value` and `method.key=value`."""

from __future__ import annotations

import ast
from collections.abc import Sequence
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
    out: dict[str, dict[str, Any]] = {name: {} for name in methods}
    known = {name: METHODS[name].options() for name in out if name != "retrain"}
    specific: dict[str, dict[str, Any]] = {name: {} for name in methods}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        method, dot, option = key.strip().rpartition(".")
        if not equals or not option:
            raise InvalidInputError(f"Expected a method argument key=value or method.key=value (got '{argument}')")
        if method == "retrain":
            raise InvalidInputError(
                f"Expected retraining's settings as those of the base model, such as --epochs (got '{argument}')"
            )
        if dot and method not in known:
            raise InvalidInputError(f"Expected a method argument of {sorted(known)} (got '{argument}')")
        takers = [name for name in ([method] if dot else known) if option in known[name]]
        if not takers:
            listed = "; ".join(f"{name}: {', '.join(known[name]) or 'none'}" for name in ([method] if dot else known))
            raise InvalidInputError(f"Expected an option of the chosen methods ({listed}) (got '{argument}')")
        for name in takers:  # the one said for the method alone wins, whatever the order
            (specific if dot else out)[name][option] = parse_value(text.strip())
    return {name: {**out[name], **specific[name]} for name in out}
