"""Rows of several seeds summarised: one line per method and mode."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gunlearn.metrics.problem import headline

Row = dict[str, Any]
#: A difference of less than so many standard errors over seeds may be noise.
ERRORS = 2.0
#: Names of rows that are no method, but what methods are compared with.
ENDS = ("original", "retrain")
#: How much utility (AUC or accuracy) a method may lose against retraining before tables mark it as failing.
LOSS = 0.03
_PROBLEM = ("dataset", "task", "backbone", "forget", "protocol", "ratio", "count", "region", "by")


@dataclass(frozen=True)
class Stat:
    """Mean over runs; `std` (n - 1) is `None` for one run."""

    mean: float
    std: float | None


@dataclass
class Line:
    """One line of a table.

    Attributes:
        method: name of the method.
        mode: its variant.
        rows: the runs that gave figures.
        errors: messages of the runs that failed, each once.
        failed: number of the runs that failed.
        fails: whether its utility is more than `LOSS` below retraining's.
        behind_utu: whether its distance to retraining is no lower than that of `utu`.
        unsure: whether that distance differs from that of `utu` by less than `ERRORS` standard errors of the difference
            over seeds; false where fewer than two seeds have both.
        compared: number of the seeds that have both.
        dataset: name, and the settings in which problems of the table differ; `None` where rows have none.
        task: name; `None` where rows have none.
    """

    method: str
    mode: str
    rows: list[Row] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    failed: int = 0
    behind_utu: bool = False
    unsure: bool = False
    compared: int = 0
    fails: bool = False
    dataset: str | None = None
    task: str | None = None

    @property
    def runs(self) -> int:
        """Number of runs, failed ones included."""
        return len(self.rows) + self.failed

    def said(self, name: str) -> list[str]:
        """Return the sentences that rows have under `"unchanged"`, `"suspicious"` or `"untrained"`, each once.

        `utu` and what methods are compared with have none of the first two: `utu` keeps the weights by design. Only
        models that others are compared with have the last.
        """
        if (self.method in (*ENDS, "utu")) != (name == "untrained"):
            return []
        return list(dict.fromkeys(row[name] for row in self.rows if _had(row, name)))

    @property
    def label(self) -> str:
        """Method and mode in one text."""
        return self.method if self.mode in ("default", "full graph", "given") else f"{self.method} ({self.mode})"

    def stat(self, name: str) -> Stat | None:
        """Return mean and standard deviation of a figure; `None` where no run has it."""
        there = [float(row[name]) for row in self.rows if _had(row, name) and math.isfinite(row[name])]
        if not there:
            return None
        return Stat(statistics.fmean(there), statistics.stdev(there) if len(there) > 1 else None)

    def mean(self, name: str) -> float | None:
        """Return the mean of a figure over runs; `None` where no run has it."""
        found = self.stat(name)
        return None if found is None else found.mean

    def floors(self, name: str, floor_name: str) -> float | None:
        """Return a mean distance in multiples of its mean noise floor, over runs that have both."""
        both = [(row[name], row[floor_name]) for row in self.rows if _had(row, name) and _had(row, floor_name)]
        floor = sum(b for _, b in both)
        return sum(a for a, _ in both) / floor if floor > 0 else None


def problems(rows: Sequence[Row]) -> list[list[Row]]:
    """Group rows that can be compared: one data set and one way to draw what is forgotten."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(name) for name in _PROBLEM), []).append(row)
    return list(groups.values())


def summarise(rows: Sequence[Row]) -> list[Line]:
    """Return the lines of all problems, in order of first appearance."""
    lines: list[Line] = []
    groups = problems(rows)
    for group, name in zip(groups, _names(groups), strict=True):
        here: dict[tuple[str, str], Line] = {}
        for row in group:
            key = row["method"], row.get("mode") or "default"
            line = here.setdefault(key, Line(*key, dataset=name, task=row.get("task")))
            if row.get("error"):
                line.failed += 1
                line.errors += [row["error"]] if row["error"] not in line.errors else []
            else:
                line.rows.append(row)
        for line in here.values():
            ends = {name: [other for other in here.values() if other.method == name] for name in ("utu", "retrain")}
            if line.method not in ENDS:
                lost = gaps(line, ends["retrain"], headline(line.task)[0].name)
                line.fails = bool(lost) and -statistics.fmean(lost) > LOSS
            if line.method not in (*ENDS, "utu"):
                found = gaps(line, ends["utu"], "js_forget")
                line.behind_utu = bool(found) and statistics.fmean(found) >= 0
                line.compared = len(found)
                line.unsure = within_noise(found)
        lines += here.values()
    return lines


def _names(groups: Sequence[Sequence[Row]]) -> list[str | None]:
    firsts = [group[0] for group in groups]
    differ = [name for name in _PROBLEM[1:] if len({first.get(name) for first in firsts}) > 1]
    more = [[f"{name} {first[name]}" for name in differ if first.get(name) is not None] for first in firsts]
    return [", ".join(filter(None, [first.get("dataset"), *m])) or None for first, m in zip(firsts, more, strict=True)]


def within_noise(values: Sequence[float]) -> bool:
    """Return whether the mean of differences is less than `ERRORS` standard errors from 0; false for one of them."""
    if len(values) < 2:
        return False
    return abs(statistics.fmean(values)) < ERRORS * statistics.stdev(values) / math.sqrt(len(values))


def gaps(line: Line, others: Iterable[Line], name: str) -> list[float]:
    """Return the differences of a figure to that of others: seed by seed, or to its mean without a common seed."""
    theirs = {row.get("seed"): row[name] for other in others for row in other.rows if _had(row, name)}
    mine = [(row.get("seed"), row[name]) for row in line.rows if _had(row, name)]
    found = [value - theirs[seed] for seed, value in mine if seed in theirs]
    if not found and theirs:
        found = [value - sum(theirs.values()) / len(theirs) for _, value in mine]
    return found


def _had(row: Row, name: str) -> bool:
    return row.get(name) is not None
