"""What the command prints, and where."""

from __future__ import annotations

import sys


def say(text: str, style: str | None = None) -> None:
    """One line on standard error, never wrapped."""
    from rich.console import Console

    Console(stderr=True).print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def show(table: object) -> None:
    """A table on standard output."""
    from rich.console import Console

    # Into a file or a pipe, as wide as it needs: a table cut to 80 columns is of no use there.
    Console(width=None if sys.stdout.isatty() else 200).print(table)
