"""Figures of one language model by itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gunlearn.llm.data.collate import Rows
from gunlearn.llm.metrics import membership
from gunlearn.llm.metrics import tofu_metrics as tofu
from gunlearn.llm.metrics.row_figures import RowsView
from gunlearn.llm.metrics.scoring import token_scores
from gunlearn.metrics.base import Figure
from gunlearn.metrics.texts import TokenScores

#: The sets that everything is measured on.
OWN = ("forget", "retain")


@dataclass(frozen=True)
class MeasuredModel:
    """Figures of a model, and what comparisons with others read.

    Attributes:
        figures: by name, such as `"forget_prob"`.
        ratio: truth ratios of the forgotten rows, `[num_rows]`, if they have wrong answers.
        scores: of forgotten and held-out rows, where there are any of these.
    """

    figures: dict[str, Any]
    ratio: Tensor | None
    scores: tuple[TokenScores, TokenScores] | None


@dataclass(frozen=True)
class ModelMeasures:
    """How to measure a model; see `evaluate_language_models`.

    Attributes:
        sets: rows by name of the set.
        holdout: rows that no model has seen.
        figures: by name.
        attacks: membership attacks.
        tokenizer: the tokenizer.
        batch_size: rows at a time.
        speak: how to generate answers; `None` generates none.
        closing: how to treat tokens that end a row.
    """

    sets: Mapping[str, Rows]
    holdout: Rows | None
    figures: Mapping[str, Figure]
    attacks: Sequence[str]
    tokenizer: Any
    batch_size: int
    speak: Mapping[str, Any] | None
    closing: Mapping[str, Any]

    def of(self, model: nn.Module) -> MeasuredModel:
        """Measure a model; raise `NotANumberError` for one that returns NaN."""
        views = {
            part: RowsView(model, rows, self.batch_size, self.speak, part in OWN, part == "forget", **self.closing)
            for part, rows in self.sets.items()
        }
        row: dict[str, Any] = {}
        for part, view in views.items():
            found = {f"{part}_{name}": figure.compute(view) for name, figure in self.figures.items()}
            row |= {key: value for key, value in found.items() if value is not None}
        scores = None
        if self.holdout is not None:
            scores = views["forget"].scores, token_scores(model, self.holdout, self.batch_size, **self.closing)
            for attack in self.attacks:
                if attack != "reference":
                    sides = zip((self.sets["forget"], self.holdout), scores, strict=True)
                    attacked = (self._attacked(attack, model, rows, of_rows) for rows, of_rows in sides)
                    row[f"mia_{attack}"] = membership.membership_auc(*attacked)
        ratio = views["forget"].ratio
        if len(self.sets) > len(OWN):
            useful: list[Any] = [
                row.get(f"{part}_{name}")
                for part in self.sets
                if part != "forget"
                for name in ("prob", "rougeL", "truth_ratio")
            ]
            if None not in useful:
                row["model_utility"] = tofu.model_utility(useful)
        return MeasuredModel(row, ratio, scores)

    def _attacked(self, attack: str, model: nn.Module, rows: Rows, scores: TokenScores) -> Tensor:
        """Return the score of each row by an attack that needs no other model, `[num_rows]`."""
        if attack == "zlib":
            return membership.zlib_score(scores, [tofu.truth_of(row, self.tokenizer) for row in rows])
        if attack == "gradient":
            return membership.gradient_score(model, rows, **self.closing)
        return getattr(membership, f"{attack}_score")(scores)
