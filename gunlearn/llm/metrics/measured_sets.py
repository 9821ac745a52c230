"""Passes of one model over sets of rows, and the views from which figures are computed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.collate import Rows
from gunlearn.llm.data.spacing import spaced
from gunlearn.llm.metrics import membership
from gunlearn.llm.metrics import tofu_metrics as tofu
from gunlearn.llm.metrics.eval_settings import EvalSettings
from gunlearn.llm.metrics.measured_model import OWN
from gunlearn.llm.metrics.row_figures import RowsView
from gunlearn.llm.metrics.row_passes import RowPasses
from gunlearn.llm.metrics.scoring import NotANumberError, token_scores
from gunlearn.llm.metrics.shared_prompts import grouped_log_probs
from gunlearn.metrics.texts import TokenScores, exact_memorization, extraction_strength

_COLUMNS = ("log_prob", "mask", "first", "mean", "std", "end")


@dataclass(eq=False)
class LoggedView(RowsView):
    """A view whose scores and answers come from passes that ran before."""

    found: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def scores(self) -> TokenScores:
        return self.found["scores"]

    @cached_property
    def wrong(self) -> list[Tensor] | None:
        return self.found.get("wrong")

    @cached_property
    def right(self) -> Tensor:
        return self.found["right"]

    @cached_property
    def said(self) -> list[str] | None:
        return self.found.get("said")


@dataclass(frozen=True)
class SetMeasures:
    """Measure one model on sets of rows.

    Attributes:
        model: the model.
        tokenizer: its tokenizer.
        settings: what to measure.
        passes: runs passes, and keeps what they found.
        name: the model, in errors.
    """

    model: nn.Module
    tokenizer: Any
    settings: EvalSettings
    passes: RowPasses
    name: str = "the model"

    @property
    def closing(self) -> dict[str, Any]:
        """How to treat tokens that end a row."""
        ends = self.settings.ends
        return {"end": self.settings.end, "tokenizer": self.tokenizer if ends is None else ends}

    def scores(self, part: str, rows: Rows) -> TokenScores | None:
        """Return the scores of a set's rows; `None` on other processes than the main one."""
        work = lambda index: self.pieces(self.model, [rows[i] for i in index], part)  # noqa: E731
        return self.joined(f"scores-{part}", len(rows), work)

    def joined(self, name: str, number: int, work: Callable[[list[int]], list[Any]]) -> TokenScores | None:
        """Return the scores that a pass finds, together; `None` on other processes than the main one."""
        found = self.passes.run(name, number, work)
        return joined_scores(found) if found else None

    def pieces(self, model: nn.Module, rows: Rows, part: str) -> list[dict[str, Tensor]]:
        """Return the scores of each row under a model; `part` names them in errors."""
        return _by_length(rows, self._scored(model, part))

    def view(self, part: str, rows: Rows, speak: bool) -> LoggedView | None:
        """Return the view of a set of rows; `None` on other processes than the main one."""
        scores = self.scores(part, rows)
        found: dict[str, Any] = {"scores": scores}
        if all("perturbed" in row for row in rows):
            both = self.passes.run(f"answers-{part}", len(rows), lambda index: self._given([rows[i] for i in index]))
            found |= (
                {"right": torch.stack([pair[0] for pair in both]), "wrong": [pair[1] for pair in both]} if both else {}
            )
        if speak:
            found["said"] = self.said(part, rows)
        if scores is None:
            return None
        how = {"tokenizer": self.tokenizer} if speak else None
        return LoggedView(
            self.model, rows, self.settings.batch_size, how, part in OWN, part == "forget", **self.closing, found=found
        )

    def said(self, part: str, rows: Rows, most: int | None = None) -> list[str]:
        """Return the model's greedy answers to a set's prompts, on the main process."""
        s = self.settings
        most = most or s.max_new_tokens

        def work(index: list[int]) -> list[str]:
            asked = [rows[i] for i in index]
            return tofu.answers_of(self.model, asked, self.tokenizer, most, 4 * s.batch_size, s.ends, rows)

        return self.passes.run(f"said-{part}", len(rows), work)

    def attacked(self, part: str, rows: Rows, scores: TokenScores | None) -> dict[str, Tensor]:
        """Return each row's score under each attack that needs no other model, on the main process."""
        out = {}
        for attack in self.settings.attacks:
            if attack == "gradient":
                some = [rows[i] for i in spaced(len(rows), self.settings.gradient_rows)]
                found = self.passes.run(
                    f"gradient-{part}",
                    len(some),
                    lambda index, some=some: self._gradients([some[i] for i in index]),  # type: ignore[misc]
                )
                out[attack] = torch.tensor(found)
            elif attack == "zlib" and scores is not None:
                out[attack] = membership.zlib_score(scores, [tofu.truth_of(row, self.tokenizer) for row in rows])
            elif attack != "reference" and scores is not None:
                out[attack] = getattr(membership, f"{attack}_score")(scores)
        return out

    def _scored(self, model: nn.Module, part: str) -> Callable[[Rows], list[dict[str, Tensor]]]:
        def score(rows: Rows) -> list[dict[str, Tensor]]:
            try:
                return split_scores(token_scores(model, rows, self.settings.batch_size, **self.closing))
            except NotANumberError as error:
                raise NotANumberError(f"{error}, rows of '{part}', in {self.name}") from None

        return score

    def _given(self, rows: Rows) -> list[tuple[Tensor, Tensor]]:
        """Return the mean log-likelihoods of each row's right answer in other words, and of its wrong ones."""
        given = [[row.get("paraphrased", row), *row["perturbed"]] for row in rows]
        order = sorted(range(len(given)), key=lambda i: sum(len(row["input_ids"]) for row in given[i]))
        found = grouped_log_probs(self.model, [given[i] for i in order], self.settings.batch_size)
        means = [mean for _, mean in sorted(zip(order, found, strict=True), key=lambda pair: pair[0])]
        return [(mean[0], mean[1:].clone()) for mean in means]

    def _gradients(self, rows: Rows) -> list[float]:
        return membership.gradient_score(self.model, rows, **self.closing).tolist()


def row_values(scores: TokenScores, ratio: Tensor | None = None, rouge: Tensor | None = None) -> list[dict[str, float]]:
    """Return an entry per row for a log: its average loss, probability, memorisation, truth ratio and ROUGE."""
    columns = {
        "avg_loss": -scores.mean_log_prob,
        "prob": scores.mean_log_prob.exp(),
        "exact_memorization": exact_memorization(scores),
        "extraction_strength": extraction_strength(scores),
        "truth_ratio": ratio,
        "rougeL": rouge,
    }
    values = {name: column.double().tolist() for name, column in columns.items() if column is not None}
    return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]


def split_scores(scores: TokenScores) -> list[dict[str, Tensor]]:
    """Return the scores of each row, `[num_tokens]` each, without the padding behind it."""
    last = scores.mask.long().cumsum(1).argmax(1) + 1
    columns = {name: getattr(scores, name) for name in _COLUMNS}
    return [{name: column[i, :n].clone() for name, column in columns.items()} for i, n in enumerate(last.tolist())]


def joined_scores(rows: Sequence[Mapping[str, Tensor]]) -> TokenScores:
    """Return scores of rows together; the inverse of `split_scores`."""
    pad = torch.nn.utils.rnn.pad_sequence
    return TokenScores(**{name: pad([row[name] for row in rows], batch_first=True) for name in _COLUMNS})


def _by_length(rows: Sequence[Any], work: Callable[[list[Any]], Sequence[Any]]) -> list[Any]:
    """Return `work(rows)` in the order of the rows, which it is given by length: that needs less padding."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
    found = work([rows[i] for i in order]) if order else []
    if len(found) != len(rows):
        raise InvalidInputError(f"Expected a value for each of {len(rows)} rows (got {len(found)})")
    return [value for _, value in sorted(zip(order, found, strict=True), key=lambda pair: pair[0])]
