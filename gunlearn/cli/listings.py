"""`gunlearn methods`, `figures`, `estimators`, `datasets`, `losses`, `report`."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import tyro

import gunlearn
from gunlearn.cli.fields import Flag, Folder
from gunlearn.core.printable import printable
from gunlearn.errors import CheckpointError, GunlearnError


@dataclass(frozen=True)
class Listing:
    """List what there is.

    Args:
        markdown: Print a markdown table.
    """

    kind: ClassVar[str]
    markdown: Flag = False

    def __call__(self) -> int:
        return gunlearn.cli.console.print_table(*self.table(), self.markdown)

    def table(self) -> tuple[list[str], list[list[str]]]:
        return gunlearn.report.listing.listing(self.kind)


class Methods(Listing):
    """List the unlearning methods."""

    kind = "method"


class FiguresCommand(Listing):
    """List the figures that are measured."""

    kind = "figure"


class Estimators(Listing):
    """List the estimators of influence."""

    kind = "estimator"


class Losses(Listing):
    """List the losses."""

    kind = "loss"


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
        debug: Show the traceback of an error.
    """

    out: tyro.conf.Positional[Path]
    markdown: Flag = False
    debug: Flag = False

    def __call__(self) -> int:
        try:
            return self._draw()
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, GunlearnError) or self.debug:
                raise
            raise CheckpointError(
                f"Expected the outputs of 'gunlearn run' or 'gunlearn influence' in {self.out} (got damaged ones, or "
                f"those of another version: {type(error).__name__} {error})"
            ) from error

    def _draw(self) -> int:
        report, console = gunlearn.report, gunlearn.cli.console
        if (self.out / "influence.json").is_file():
            study = gunlearn.bench.read_study(self.out)
            path = report.influence_report(study, self.out / "influence.html")
            console.print_study(study, self.markdown)
        else:
            rows = gunlearn.bench.read_results(self.out)
            path = report.grid_report(rows, self.out / "report.html", command=gunlearn.bench.read_command(self.out))
            console.print_rows(rows, self.markdown)
        if not self.markdown:
            print(printable(f"report: {path}"))
        return 0
