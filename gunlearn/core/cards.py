"""What records of unlearned models share: a model card in markdown, figures in columns, a folder without a model."""

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from gunlearn.errors import InvalidInputError


def front_matter(front: Mapping[str, Any]) -> list[str]:
    """Return the lines of a card's YAML header."""
    return ["---", *(f"{name}: {json.dumps(value)}" for name, value in front.items()), "---"]


def figures_in_markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table of figures, of which the first two columns are words."""
    rule = "|---|---|" + "---:|" * (len(head) - 2)
    return [f"| {' | '.join(head)} |", rule, *(f"| {' | '.join(row)} |" for row in body)]


def in_columns(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return head and rows with cells as wide as the widest of their column; nothing without rows."""
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)] if body else []
    return [[cell.ljust(n) for cell, n in zip(row, widths, strict=True)] for row in (head, *body) if body]


def check_no_model(folder: str | PathLike[str], patterns: Sequence[str]) -> None:
    """Refuse a file, and a folder that already holds files of a model or an adapter, which `patterns` name.

    Raises:
        InvalidInputError: it is one.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InvalidInputError(f"Expected a folder for the outputs (got {folder}, which is a file)")
    held = sorted(path.relative_to(folder).as_posix() for pattern in patterns for path in folder.glob(pattern))
    if held:
        raise InvalidInputError(
            f"Expected a folder without a model or an adapter for the outputs (got {folder}, which holds "
            f"{', '.join(held)}); take another one (--out), or empty it"
        )
