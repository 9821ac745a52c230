"""What a model does with each row, and how far its answers are from those of retrained models."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.bench.llm.arms import TextBench
from gunlearn.bench.llm.text_problem import TextProblem
from gunlearn.llm.data.collate import Rows
from gunlearn.llm.metrics import membership
from gunlearn.llm.metrics import tofu_metrics as tofu
from gunlearn.llm.metrics.row_figures import RowsView
from gunlearn.llm.metrics.scoring import token_scores
from gunlearn.llm.metrics.text_alignment import TextAlignment
from gunlearn.llm.model.head import context_of
from gunlearn.metrics.alignment import Sampler, align
from gunlearn.seed import isolated_rng


class Aligner:
    """Compares a model with retrained ones, of which one at a time is in memory.

    Args:
        rows: whose prompts are answered.
        references: functions that load the retrained models.
        bench: how to draw.
        tokenizer: of all models.
    """

    def __init__(
        self, rows: Rows, references: Sequence[Callable[[], nn.Module]], bench: TextBench, tokenizer: Any
    ) -> None:
        self.references, self.bench = references, bench
        how = Sampler(bench.samples)
        self.supplier = TextAlignment(rows, tokenizer, how, batch_size=4 * bench.measured_batch)
        self.said: dict[int, Any] = {}  # answers of the references: tokens alone

    def items(self, model: nn.Module, apart: int | None = None) -> Tensor | None:
        """Return each prompt's alignment, the mean over the references `[num_prompts]`; `None` without any.

        `apart` is the number of a reference to leave out: the one that `model` is.
        """
        supplier, found = self.supplier, []
        room = (context_of(model) or math.inf) - max(map(len, supplier.prompts))
        supplier.max_new_tokens = self.bench.max_new_tokens or int(max(1, min(64, room)))
        own = None
        for number, load in enumerate(self.references):
            if number == apart:
                continue
            reference = load()
            own = supplier.draw(model) if own is None else own
            if number not in self.said:
                self.said[number] = supplier.draw(reference)
            halves = supplier.terms(own, model, reference), supplier.terms(self.said[number], reference, model)
            found.append(align(*halves, supplier.estimator, sampler=supplier.sampler, confidence=None).items)
            del reference
        return torch.stack(found).mean(0) if found else None


def values_of(
    model: nn.Module, problem: TextProblem, bench: TextBench, aligner: Aligner, apart: int | None = None
) -> dict[str, list[float]]:
    """Return a model's figures of each row, by name: `forget_prob`, `forget_rouge`, `forget_alignment`, ...

    Random numbers that are drawn do not change the caller's random state.

    Raises:
        NotANumberError: the model returns NaN.
    """
    speak = {"tokenizer": problem.tokenizer, "max_new_tokens": bench.max_new_tokens} if bench.rouge else None
    with isolated_rng(0):
        found: dict[str, Tensor | None] = {}
        for name, rows in (("forget", problem.forget), ("retain", problem.asked)):
            view = RowsView(model, rows, bench.measured_batch, speak, tokenizer=problem.tokenizer)
            found |= {f"{name}_prob": view.likelihood, f"{name}_rouge": view.rouge}
            if name == "forget" and problem.holdout:
                unseen = token_scores(model, problem.holdout, bench.measured_batch, tokenizer=problem.tokenizer)
                for part, scores in ((name, view.scores), ("holdout", unseen)):
                    found[f"{part}_min_k"] = membership.min_k_score(scores)
        found["forget_alignment"] = aligner.items(model, apart)
    return {name: [float(f"{v:.6g}") for v in value.tolist()] for name, value in found.items() if value is not None}


def utility_of(model: nn.Module, problem: TextProblem, bench: TextBench) -> float | None:
    """Return TOFU's model utility on the retained rows and the problem's further sets; `None` where it has no answer.

    That is without further sets, without generated answers, or where rows have no wrong answers.
    """
    if not problem.utility or not bench.rouge:
        return None
    speak, useful = {"tokenizer": problem.tokenizer, "max_new_tokens": bench.max_new_tokens}, []
    for name, rows in {"retain": problem.asked, **problem.utility}.items():
        view = RowsView(model, rows, bench.measured_batch, speak, name == "retain", False, tokenizer=problem.tokenizer)
        if view.truth is None or view.rouge is None:
            return None
        useful += [float(view.likelihood.double().mean()), float(view.rouge.double().mean()), view.truth]
    return tofu.model_utility(useful)
