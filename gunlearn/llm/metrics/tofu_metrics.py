"""TOFU's metrics (`arXiv:2401.06121 <https://arxiv.org/abs/2401.06121>`_): probability, ROUGE, truth ratio, summaries.

Where codes and paper differ: the truth ratio's average over wrong answers is geometric here, as in the codes in use;
`mean="arithmetic"` is the paper's. Ratios are computed from log-likelihoods, without the 1e-10 that those codes add to
denominators. ROUGE is recall, with stemming, as in both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from scipy.stats import ks_2samp
from torch import Tensor, nn

from gunlearn.core.checks import check_choice
from gunlearn.errors import InvalidInputError
from gunlearn.llm.metrics.generation import context_of, draw, end_tokens
from gunlearn.llm.metrics.scoring import prompt_of, token_scores
from gunlearn.llm.model.causal_lm import IGNORE
from gunlearn.metrics.texts import TokenScores

MEANS = ("geometric", "arithmetic")
AGGREGATORS = ("closer_to_1_better", "true_better", "prob_mean")


def probability(scores: TokenScores) -> Tensor:
    r""":math:`p(y|x)^{1/|y|}` of each row's answer, `[num_rows]`."""
    return scores.mean_log_prob.exp()


def answer_log_probs(
    model: nn.Module, answers: Sequence[Sequence[Mapping[str, Any]]], batch_size: int = 16
) -> list[Tensor]:
    """Mean log-likelihood per token of several answers to each question.

    Args:
        model: a causal language model.
        answers: for each question its rows.
        batch_size: rows at a time.

    Returns:
        `[num_answers]` for each question.
    """
    flat = [row for rows in answers for row in rows]
    return list(token_scores(model, flat, batch_size).mean_log_prob.split([len(rows) for rows in answers]))


def options_probability(right: Tensor, wrong: Sequence[Tensor]) -> Tensor:
    """Share of the right answer in the probability of all given ones, `[num_questions]`.

    Args:
        right: mean log-likelihood per token of the right answer, `[num_questions]`.
        wrong: the same of the wrong ones, `[num_answers]` for each question.
    """
    return torch.stack([torch.cat([r[None], w]).softmax(0)[0] for r, w in zip(right, wrong, strict=True)])


def truth_ratio(right: Tensor, wrong: Sequence[Tensor], mean: str = "geometric") -> Tensor:
    r"""Probability of the wrong answers over that of the right one, :math:`\overline{p(\hat y|x)} / p(\tilde y|x)`.

    Args:
        right: mean log-likelihood per token of the right (paraphrased) answer, `[num_questions]`.
        wrong: the same of the wrong ones, `[num_answers]` for each question.
        mean: over the wrong answers, `"geometric"` or `"arithmetic"` (the paper's).

    Returns:
        `[num_questions]`, at least 0: below 1 the right answer is the likelier one.

    Raises:
        InvalidInputError: an unknown mean, or a question without wrong answers.
    """
    check_choice("mean", mean, MEANS)
    if any(not w.numel() for w in wrong):
        raise InvalidInputError("Expected wrong answers to each question (got a question without)")
    middle = [w.mean() if mean == "geometric" else w.logsumexp(0) - math.log(w.numel()) for w in wrong]
    return (torch.stack(middle) - right).exp()


def aggregate_truth_ratio(ratio: Tensor, how: str) -> float:
    """One number of truth ratios.

    Args:
        ratio: `[num_questions]`.
        how: `"closer_to_1_better"`, the mean of `min(r, 1/r)`, for forgotten questions; `"true_better"`, of
            `max(0, 1 - r)`, for the others; `"prob_mean"`, of `1 / (1 + r)`, the right answer's share.

    Raises:
        InvalidInputError: an unknown way.
    """
    check_choice("how", how, AGGREGATORS)
    values = {
        "closer_to_1_better": torch.minimum(ratio, 1 / ratio),
        "true_better": (1 - ratio).clamp_min(0),
        "prob_mean": 1 / (1 + ratio),
    }
    return float(values[how].double().mean())


def rouge(answers: Sequence[str], truths: Sequence[str]) -> dict[str, Tensor]:
    """ROUGE with stemming, by `rouge_score`.

    Args:
        answers: what the model said.
        truths: what it should have.

    Returns:
        `rouge1_recall`, `rougeL_recall` and `rougeL_f1`, `[num_answers]` each.

    Raises:
        InvalidInputError: different numbers of texts.
    """
    from rouge_score.rouge_scorer import RougeScorer

    if len(answers) != len(truths):
        raise InvalidInputError(f"Expected as many answers as truths (got {len(answers)} and {len(truths)})")
    scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
    scores = [scorer.score(truth, answer) for truth, answer in zip(truths, answers, strict=True)]
    return {
        "rouge1_recall": torch.tensor([s["rouge1"].recall for s in scores]),
        "rougeL_recall": torch.tensor([s["rougeL"].recall for s in scores]),
        "rougeL_f1": torch.tensor([s["rougeL"].fmeasure for s in scores]),
    }


def answers_of(
    model: nn.Module,
    rows: Sequence[Mapping[str, Any]],
    tokenizer: Any,
    max_new_tokens: int | None = None,
    batch_size: int = 64,
    ends: int | Sequence[int] | None = None,
) -> list[str]:
    """The model's likeliest continuation of each row's prompt (greedy), as text.

    Args:
        model: a causal language model.
        rows: `input_ids` and `labels`.
        tokenizer: of the model.
        max_new_tokens: where answers are cut off; by default one token behind the longest of the rows' own answers, or
            at the end of the model's context.
        batch_size: answers at a time.
        ends: ids that end an answer; by default those of `end_tokens`.
    """
    rows = [rows[i] for i in range(len(rows))]
    prompts, groups = [prompt_of(row) for row in rows], {}
    longest = 1 + max((sum(int(y) != IGNORE for y in row["labels"]) for row in rows), default=0)
    context = context_of(model)
    for i, prompt in enumerate(prompts):
        room = longest if context is None else min(longest, context - len(prompt))
        groups.setdefault(max_new_tokens or room, []).append(i)
    ends, texts = end_tokens(tokenizer if ends is None else ends), [""] * len(rows)
    for most, chosen in groups.items():
        samples = draw(model, [prompts[i] for i in chosen], ends, None, most, batch_size)
        for n, i in enumerate(chosen):
            texts[i] = tokenizer.decode(samples.answers(n)[0], skip_special_tokens=True)
    return texts


def truth_of(row: Mapping[str, Any], tokenizer: Any) -> str:
    """A row's own answer, as text: `answer` where the row has it, else its labelled tokens."""
    if isinstance(row.get("answer"), str):
        return row["answer"]
    return tokenizer.decode([int(y) for y in row["labels"] if int(y) >= 0], skip_special_tokens=True)


def forget_quality(ratio: Tensor, reference_ratio: Tensor) -> float:
    """p-value of the two-sample Kolmogorov-Smirnov test on truth ratios of the forgotten questions.

    1: as a retrained model answers them, by this test; near 0: otherwise. With few questions nothing is significant.

    Args:
        ratio: of the model to judge, `[num_questions]`.
        reference_ratio: of a retrained one.
    """
    return float(ks_2samp(ratio.double().numpy(), reference_ratio.double().numpy()).pvalue)


def model_utility(figures: Sequence[float]) -> float:
    """Harmonic mean; TOFU's nine are probability, ROUGE-L and `true_better` on retained, author and world questions.

    Raises:
        InvalidInputError: none, or a negative one.
    """
    if not figures or min(figures) < 0:
        raise InvalidInputError(f"Expected figures of at least 0 (got {list(figures)})")
    return 0.0 if min(figures) == 0 else len(figures) / sum(1 / f for f in figures)
