"""Output of the command. Loads when something is printed, so that help does not wait for rich."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

import gunlearn
from gunlearn.core.printable import printable

if TYPE_CHECKING:
    from gunlearn.attribution.study.study import Study


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Let `main` end the program; rich would end it with exit code 1."""
        raise  # the error that is being handled


def say(text: str, style: str | None = None) -> None:
    """Print one line on standard error, never wrapped."""
    _Console(stderr=True).print(printable(text), style=style, markup=False, highlight=False, soft_wrap=True)


def show(table: object) -> None:
    """Print a table on standard output, 200 columns wide into a file or a pipe."""
    _Console(width=None if sys.stdout.isatty() else 200).print(table)


def print_table(head: list[str], body: list[list[str]], markdown: bool) -> int:
    """Print a listing, in colour or as markdown; return the exit code 0."""
    if markdown:
        print(gunlearn.report.listing.listing_markdown(head, body))
    else:
        show(gunlearn.report.table.Table(head, body, len(head)).terminal())
    return 0


def print_rows(rows: Sequence[dict[str, Any]], markdown: bool = False) -> None:
    """Print the rows of a grid, a table with a title per problem."""
    problems = gunlearn.report.summary.problems(rows)
    for group in problems:
        title = gunlearn.report.protocol.problem_title(group[0])
        if not markdown:
            show(gunlearn.report.rich_table(group, title))
            continue
        if len(problems) > 1:
            print(f"### {printable(title)}\n")
        print(gunlearn.report.markdown_table(group))


def print_study(study: Study, markdown: bool = False) -> None:
    """Print the table of a study of influence."""
    report = gunlearn.report
    if markdown:
        print(report.influence_markdown_table(study.rows))
    else:
        show(report.influence_rich_table(study.rows, report.study_title(study)))
