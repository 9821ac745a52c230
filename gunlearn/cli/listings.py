"""`gunlearn methods`, `estimators`, `datasets`, `losses`, `report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from gunlearn.cli.console import show
from gunlearn.cli.fields import Flag, Folder


@dataclass(frozen=True)
class Methods:
    """List the unlearning methods.

    Args:
        markdown: Print a markdown table.
    """

    markdown: Flag = False

    def __call__(self) -> int:
        """Print the table."""
        from gunlearn.report.listing import methods_listing

        return print_table(*methods_listing(), self.markdown)


@dataclass(frozen=True)
class Estimators:
    """List the estimators of influence.

    Args:
        markdown: Print a markdown table.
    """

    markdown: Flag = False

    def __call__(self) -> int:
        """Print the table."""
        from gunlearn.report.listing import estimators_listing

        return print_table(*estimators_listing(), self.markdown)


@dataclass(frozen=True)
class Datasets:
    """List the data sets, and whether their files are at hand.

    Args:
        root: Folder of the raw files; without it $GUNLEARN_DATA, else ./data.
        markdown: Print a markdown table.
    """

    root: Folder = None
    markdown: Flag = False

    def __call__(self) -> int:
        """Print the table."""
        from gunlearn.report.listing import datasets_listing

        return print_table(*datasets_listing(self.root), self.markdown)


@dataclass(frozen=True)
class Losses:
    """List the losses.

    Args:
        markdown: Print a markdown table.
    """

    markdown: Flag = False

    def __call__(self) -> int:
        """Print the table."""
        from gunlearn.report.listing import losses_listing

        return print_table(*losses_listing(), self.markdown)


@dataclass(frozen=True)
class Report:
    """Draw the report again from the results of a run or a study.

    Args:
        out: Output folder of 'gunlearn run' or 'gunlearn influence'.
        markdown: Print the table as markdown.
    """

    out: tyro.conf.Positional[Path]
    markdown: Flag = False

    def __call__(self) -> int:
        """Write the report, print the table."""
        if (self.out / "influence.json").is_file():
            return self._influence()
        from gunlearn.bench.store import read_results
        from gunlearn.report.html import grid_report
        from gunlearn.report.table import markdown_table, rich_table

        rows = read_results(self.out)
        path = grid_report(rows, self.out / "report.html")
        if self.markdown:
            print(markdown_table(rows))
        else:
            show(rich_table(rows))
            print(f"report: {path}")
        return 0

    def _influence(self) -> int:
        from gunlearn.bench.influence_grid import read_study
        from gunlearn.report.influence_table import (
            influence_markdown_table,
            influence_report,
            influence_rich_table,
            study_title,
        )

        study = read_study(self.out)
        path = influence_report(study, self.out / "influence.html")
        if self.markdown:
            print(influence_markdown_table(study.rows))
        else:
            show(influence_rich_table(study.rows, study_title(study)))
            print(f"report: {path}")
        return 0


def print_table(head: list[str], body: list[list[str]], markdown: bool) -> int:
    """Print a table, in colour or as markdown; the exit code is 0."""
    if markdown:
        from gunlearn.report.listing import listing_markdown

        print(listing_markdown(head, body))
        return 0
    from rich.table import Table
    from rich.text import Text

    table = Table(*head)
    for row in body:
        table.add_row(*map(Text, row))
    show(table)
    return 0
