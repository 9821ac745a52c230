"""A language model on a set of rows: the view that figures of texts read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from gunlearn.llm.data.rows import is_labelled
from gunlearn.llm.data.spacing import spaced
from gunlearn.llm.metrics import tofu_metrics as tofu
from gunlearn.llm.metrics.scoring import token_scores
from gunlearn.metrics import FIGURES
from gunlearn.metrics.texts import TokenScores

#: Names of the figures that records hold.
RECORDED = ("prob", "nll", "exact_memorization", "extraction_strength")


@dataclass(eq=False)
class RowsView:
    """A `TextView` of a model; scores are computed once.

    Args:
        rows: as the `forget_rows` of `evaluate_language_models`.
        batch_size: rows at a time; answers are generated four times as many at a time.
        speak: arguments of `answers_of`, to generate answers; `None` generates none.
        in_full: measure memorisation too, and answers' probability among all texts; else among the given answers.
        forgotten: whether the rows were forgotten; decides the summary of truth ratios.
        end: what memorisation does with the token that ends a row, see `token_scores`.
        tokenizer: names that token.
    """

    model: nn.Module
    rows: Sequence[Mapping[str, Any]]
    batch_size: int = 16
    speak: Mapping[str, Any] | None = None
    in_full: bool = True
    forgotten: bool = True
    end: str = "skip"
    tokenizer: Any = None

    @cached_property
    def scores(self) -> TokenScores:
        return token_scores(self.model, self.rows, self.batch_size, end=self.end, tokenizer=self.tokenizer)

    @cached_property
    def wrong(self) -> list[Tensor] | None:
        """Mean log-likelihood per token of each row's wrong answers; `None` where not all rows have some."""
        if not all("perturbed" in row for row in self.rows):
            return None
        return tofu.answer_log_probs(self.model, [row["perturbed"] for row in self.rows], self.batch_size)

    @cached_property
    def right(self) -> Tensor:
        """Mean log-likelihood per token of each row's right answer in other words, `[num_rows]`."""
        rows = [row.get("paraphrased", row) for row in self.rows]
        return token_scores(self.model, rows, self.batch_size).mean_log_prob

    @cached_property
    def ratio(self) -> Tensor | None:
        """Truth ratio of each row, `[num_rows]`."""
        return None if self.wrong is None else tofu.truth_ratio(self.right, self.wrong)

    @cached_property
    def said(self) -> list[str] | None:
        """The model's greedy answer to each row's prompt; `None` where none were generated."""
        if self.speak is None:
            return None
        return tofu.answers_of(self.model, self.rows, batch_size=4 * self.batch_size, **self.speak)

    @property
    def likelihood(self) -> Tensor:
        if self.in_full or self.wrong is None:
            return tofu.probability(self.scores)
        return tofu.options_probability(self.scores.mean_log_prob, self.wrong)

    @property
    def rouge(self) -> Tensor | None:
        if self.said is None or self.speak is None:
            return None
        truths = [tofu.truth_of(row, self.speak["tokenizer"]) for row in self.rows]
        return tofu.rouge(self.said, truths)["rougeL_recall"]

    @property
    def truth(self) -> float | None:
        how = "closer_to_1_better" if self.forgotten else "true_better"
        return None if self.ratio is None else tofu.aggregate_truth_ratio(self.ratio, how)


def figures(
    model: nn.Module,
    parts: Mapping[str, Sequence[Mapping[str, Any]]],
    most: int = 256,
    batch_size: int = 8,
    tokenizer: Any = None,
) -> dict[str, dict[str, float]]:
    """Return the figures `RECORDED` by part, of at most `most` evenly spaced labelled rows each; 0 measures nothing."""
    out = {}
    for name, given in parts.items() if most else ():
        rows = [row for row in given if is_labelled(row)]
        chosen = [rows[i] for i in spaced(len(rows), most)]
        view = RowsView(model, chosen, batch_size, tokenizer=tokenizer)
        found = {figure: FIGURES[figure]().compute(view) for figure in RECORDED}
        out[name] = {figure: value for figure, value in found.items() if value is not None}
    return out
