"""Figures of several denoisers, with pictures that they draw from the same noise."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table
from torch import Tensor

from gunlearn.errors import InvalidInputError

#: What rows hold, and what it means.
LEGENDS = {
    "ua": "share of pictures asked for a forgotten concept in which the judge sees none",
    "ira": "accuracy on the other concepts",
    "nearest": "accuracy on the concepts nearest to the forgotten ones, by the judge's confusion",
    "rest": "accuracy on all others",
    "frechet": "squared Fréchet distance between drawn and real pictures of the other concepts, on the named features",
    "alignment_forget": "divergence to retrained models both ways at pictures of the forgotten concepts",
    "alignment_retain": "the same at pictures of the others",
    "copies": "share of pictures of forgotten concepts that are much nearer to a forgotten image than to retained ones",
    "learned_condition": "share of the forgotten concept in pictures drawn with a condition learned from its images",
    "relearned": "the same after so many steps on the forgotten images",
}

UNSEEN = (
    "On the forgotten concepts the retrained models differ more from each other than the model before unlearning from "
    "them: nothing taught them what to draw there. Read alignment_forget beside its floor, and retrain more of them."
)


@dataclass
class DenoiserFigures:
    """Figures and pictures of models.

    Args:
        rows: per model `{"model": name, "ua": ..., ...}`; what cannot be had is missing. A model that draws NaN
            is marked `"broken"`, without figures.
        pictures: per model images `[num_concepts, per_concept, channels, height, width]`, from the same noise.
        concepts: the concepts in the pictures' order.
        forgotten: those that were forgotten.
        features: name of the features of the Fréchet distance.
        notes: what to know before the figures are read.
    """

    rows: list[dict[str, Any]]
    pictures: dict[str, Tensor] = field(default_factory=dict)
    concepts: list[int] = field(default_factory=list)
    forgotten: list[int] = field(default_factory=list)
    features: str = ""
    notes: list[str] = field(default_factory=list)

    def of(self, name: str) -> dict[str, Any]:
        """Return the row of a model; refuse a name that no row has."""
        for row in self.rows:
            if row["model"] == name:
                return row
        raise InvalidInputError(f"Expected one of {[row['model'] for row in self.rows]} (got {name!r})")

    @property
    def names(self) -> list[str]:
        """Names of the figures that some row has, in order."""
        return list(dict.fromkeys(key for row in self.rows for key in row if key != "model"))

    @staticmethod
    def cell(row: Mapping[str, Any], name: str) -> str:
        """Return the text of a figure; a dash where there is none."""
        value = row.get(name)
        return "-" if value is None else "yes" if value is True else f"{value:.3g}"

    def __rich__(self) -> Table:
        table = Table(caption="\n".join(self.notes) or None)
        for heading in ("", *[row["model"] for row in self.rows]):
            table.add_column(heading, no_wrap=not heading, overflow="fold")
        for name in self.names:
            table.add_row(name, *[self.cell(row, name) for row in self.rows])
        return table
