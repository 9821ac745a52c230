"""`gunlearn methods`, `figures`, `estimators`, `datasets`, `losses`, `report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

import gunlearn
from gunlearn.cli.fields import Flag, Folder


@dataclass(frozen=True)
class Listing:
    """List what there is.

    Args:
        markdown: Print a markdown table.
    """

    markdown: Flag = False

    def __call__(self) -> int:
        """Print the table."""
        return gunlearn.cli.console.print_table(*self.table(), self.markdown)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return heading and rows."""
        raise NotImplementedError  # an abstract class would make tyro load typeguard, and help slow


class Methods(Listing):
    """List the unlearning methods."""

    def table(self) -> tuple[list[str], list[list[str]]]:
        return gunlearn.report.listing.methods_listing()


class FiguresCommand(Listing):
    """List the figures that are measured."""

    def table(self) -> tuple[list[str], list[list[str]]]:
        return gunlearn.report.listing.figures_listing()


class Estimators(Listing):
    """List the estimators of influence."""

    def table(self) -> tuple[list[str], list[list[str]]]:
        return gunlearn.report.listing.estimators_listing()


class Losses(Listing):
    """List the losses."""

    def table(self) -> tuple[list[str], list[list[str]]]:
        return gunlearn.report.listing.losses_listing()


@dataclass(frozen=True)
class Datasets(Listing):
    """List the data sets, and whether their files are at hand.

    Args:
        root: Folder of the raw files; without it $GUNLEARN_DATA, else ./data.
    """

    root: Folder = None

    def table(self) -> tuple[list[str], list[list[str]]]:
        return gunlearn.report.listing.datasets_listing(self.root)


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
        rows = gunlearn.bench.read_results(self.out)
        path = gunlearn.report.grid_report(rows, self.out / "report.html")
        gunlearn.cli.console.print_rows(rows, self.markdown)
        if not self.markdown:
            print(f"report: {path}")
        return 0

    def _influence(self) -> int:
        report, study = gunlearn.report, gunlearn.bench.read_study(self.out)
        path = report.influence_report(study, self.out / "influence.html")
        if self.markdown:
            print(report.influence_markdown_table(study.rows))
        else:
            gunlearn.cli.console.show(report.influence_rich_table(study.rows, report.study_title(study)))
            print(f"report: {path}")
        return 0
