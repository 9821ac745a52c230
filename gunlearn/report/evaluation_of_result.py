"""The figures of an unlearned model beside those of its references: printed, saved, drawn."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gunlearn.bench.store import atomic_write, csv_text, json_plain
from gunlearn.core.options import did_you_mean
from gunlearn.errors import CheckpointError, UnsupportedMethodError
from gunlearn.metrics import FIGURES
from gunlearn.metrics.base import Figure, figures_of
from gunlearn.report.table import text_table


class Evaluation(Mapping[str, Any]):
    """The figures of a result by their names, beside those of its references.

    Three more entries are sentences, or `None`: `"unchanged"` says that the weights are the original's, `"suspicious"`
    that the model is nearer to the references than they are to each other, or that a reference looks like a copy of
    this model or the original with noise, `"untrained"` which references are hardly better on retained items than new
    weights.

    Args:
        drawn: rows of the models for the report; the model before unlearning comes first, where it is known.
        figures: the figures by name.

    Attributes:
        rows: one row per model: the result, the references, then `utu`, which every method must beat.
    """

    def __init__(self, drawn: list[dict[str, Any]], figures: Mapping[str, Figure]) -> None:
        self.drawn, self.figures = drawn, dict(figures)
        self.rows = [
            {name: value for name, value in row.items() if name not in ("hist_forget", "options")}
            for row in drawn
            if row["method"] != "original"
        ]

    def __getitem__(self, name: str) -> Any:
        """Return a figure of the result, or another entry of its row (`"method"`)."""
        row = self.rows[0]
        if name not in row:
            raise KeyError(f"Expected a figure among {sorted(self.figures)} (got {name!r}){did_you_mean(name, row)}")
        return row[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.figures)

    def __len__(self) -> int:
        return len(self.figures)

    def __str__(self) -> str:
        return text_table(self.rows, list(self.figures.values()))

    def report(self, path: str | Path) -> Path:
        """Write a self-contained HTML report."""
        from gunlearn.report.html import evaluation_report  # loads matplotlib

        return evaluation_report(self, path)

    def save_csv(self, path: str | Path) -> Path:
        """Write the rows as CSV."""
        return atomic_write(path, csv_text(self.rows))

    def save(self, path: str | Path) -> Path:
        """Write everything but the models as JSON; forgotten data appear as a number and a hash only."""
        described = Figure.__annotations__
        own = [{k: getattr(f, k) for k in described} for name, f in self.figures.items() if name not in FIGURES]
        text = json.dumps({"rows": json_plain(self.drawn), "figures": own}, indent=1, allow_nan=False)
        return atomic_write(path, text + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        """Read what `save` wrote; CheckpointError where there is no such file, or `save` did not write it."""
        try:
            saved = json.loads(Path(path).read_text(encoding="utf-8"))
            drawn, own = saved["rows"], [SavedFigure(**said) for said in saved["figures"]]
            return cls(drawn, figures_of(drawn[-1]["task"], own))
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise CheckpointError(f"Expected a saved evaluation in {path} (got: {error})") from error


class SavedFigure(Figure):
    """The description of a figure in a saved evaluation: tables show it, but it computes nothing."""

    def __init__(self, **said: Any) -> None:
        vars(self).update(said)

    def compute(self, view: Any) -> float | None:
        raise UnsupportedMethodError(f"Expected the class of figure '{self.name}' (got its description alone)")
