"""TOFU's metrics (`arXiv:2401.06121 <https://arxiv.org/abs/2401.06121>`_): probability, ROUGE, truth ratio, summaries.

TOFU's code and paper differ: the truth ratio's mean over wrong answers is geometric by default, as in the code;
`mean="arithmetic"` is the paper's. Ratios are computed from log-likelihoods, without the 1e-10 that the code adds to
denominators. ROUGE is recall, with stemming, as in both.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from scipy.stats import ks_2samp
from torch import Tensor, nn

from gunlearn.core.checks import check_choice
from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.collate import Rows
from gunlearn.llm.data.end_tokens import end_tokens
from gunlearn.llm.data.text_items import IGNORE
from gunlearn.llm.metrics.generation import draw_answers
from gunlearn.llm.metrics.scoring import prompt_of, token_scores
from gunlearn.llm.model.head import context_of
from gunlearn.metrics.texts import TokenScores


def probability(scores: TokenScores) -> Tensor:
    r"""Return :math:`p(y|x)^{1/|y|}` of each row's answer, `[num_rows]`."""
    return scores.mean_log_prob.exp()


def answer_log_probs(model: nn.Module, answers: Sequence[Rows], batch_size: int = 16) -> list[Tensor]:
    """Return the mean log-likelihood per token of several answers to each question, `[num_answers]` for each."""
    flat = [row for rows in answers for row in rows]
    return list(token_scores(model, flat, batch_size).mean_log_prob.split([len(rows) for rows in answers]))


def options_probability(right: Tensor, wrong: Sequence[Tensor]) -> Tensor:
    """Return the right answer's share of the probability of all given answers, `[num_questions]`; see `truth_ratio`."""
    return torch.stack([torch.cat([r[None], w]).softmax(0)[0] for r, w in zip(right, wrong, strict=True)])


def truth_ratio(right: Tensor, wrong: Sequence[Tensor], mean: str = "geometric") -> Tensor:
    r"""Return the probability of wrong answers over the right one's, :math:`\overline{p(\hat y|x)} / p(\tilde y|x)`.

    `[num_questions]`, at least 0: below 1 the right answer is likelier.

    Args:
        right: mean log-likelihood per token of the right (paraphrased) answer, `[num_questions]`.
        wrong: mean log-likelihood per token of the wrong answers, `[num_answers]` for each question.
        mean: mean over the wrong answers, `"geometric"` or `"arithmetic"` (the paper's).

    Raises:
        InvalidInputError: an unknown mean, or a question without wrong answers.
    """
    check_choice("mean", mean, ("geometric", "arithmetic"))
    if any(not w.numel() for w in wrong):
        raise InvalidInputError("Expected wrong answers to each question (got a question without)")
    middle = [w.mean() if mean == "geometric" else w.logsumexp(0) - math.log(w.numel()) for w in wrong]
    return (torch.stack(middle) - right).exp()


def aggregate_truth_ratio(ratio: Tensor, how: str) -> float:
    """Return the mean of a function of truth ratios `[num_questions]`.

    `how` is `"closer_to_1_better"`, `min(r, 1/r)`, for forgotten questions; `"true_better"`, `max(0, 1 - r)`, for the
    others; or `"prob_mean"`, `1 / (1 + r)`, the right answer's share.
    """
    values = {
        "closer_to_1_better": torch.minimum(ratio, 1 / ratio),
        "true_better": (1 - ratio).clamp_min(0),
        "prob_mean": 1 / (1 + ratio),
    }
    check_choice("how", how, tuple(values))
    return float(values[how].double().mean())


def rouge(answers: Sequence[str], truths: Sequence[str]) -> dict[str, Tensor]:
    """Return ROUGE with stemming, `[num_answers]` each: `rouge1_recall`, `rougeL_recall` and `rougeL_f1`."""
    from rouge_score.rouge_scorer import RougeScorer  # takes seconds to load; only this function needs it

    if len(answers) != len(truths):
        raise InvalidInputError(f"Expected as many answers as truths (got {len(answers)} and {len(truths)})")
    scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
    scores = [scorer.score(truth, answer) for truth, answer in zip(truths, answers, strict=True)]
    wanted = {"rouge1_recall": "recall", "rougeL_recall": "recall", "rougeL_f1": "fmeasure"}
    return {
        name: torch.tensor([getattr(score[name.partition("_")[0]], figure) for score in scores])
        for name, figure in wanted.items()
    }


def answers_of(
    model: nn.Module,
    rows: Rows,
    tokenizer: Any,
    max_new_tokens: int | None = None,
    batch_size: int = 64,
    ends: int | Sequence[int] | None = None,
    among: Rows | None = None,
) -> list[str]:
    """Return the model's greedy answer to each row's prompt, as text.

    Answers have up to `max_new_tokens`, by default one more than the longest of the rows (or of `among`, of which
    `rows` are a part), within the context; they end with an id of `ends`, by default of `end_tokens`.
    """
    rows = [rows[i] for i in range(len(rows))]
    prompts = [prompt_of(row) for row in rows]
    groups: dict[int, list[int]] = {}
    measured = rows if among is None else among
    lengths = (sum(int(y) != IGNORE for y in measured[i]["labels"]) for i in range(len(measured)))
    longest = 1 + max(lengths, default=0)
    context = context_of(model)
    for i, prompt in enumerate(prompts):
        room = longest if context is None else min(longest, context - len(prompt))
        groups.setdefault(max_new_tokens or room, []).append(i)
    end_ids, texts = end_tokens(tokenizer if ends is None else ends), [""] * len(rows)
    for most, chosen in groups.items():
        samples = draw_answers(model, [prompts[i] for i in chosen], end_ids, None, most, batch_size)
        for n, i in enumerate(chosen):
            texts[i] = tokenizer.decode(samples.answers(n)[0], skip_special_tokens=True)
    return texts


def truth_of(row: Mapping[str, Any], tokenizer: Any) -> str:
    """Return a row's own answer as text: its `answer`, else its labelled tokens."""
    if isinstance(row.get("answer"), str):
        return row["answer"]
    return tokenizer.decode([int(y) for y in row["labels"] if int(y) >= 0], skip_special_tokens=True)


def forget_quality(ratio: Tensor, reference_ratio: Tensor) -> float:
    """Return the p-value of the two-sample Kolmogorov-Smirnov test on truth ratios of the forgotten questions.

    The ratios of the model and of a retrained one are `[num_questions]` each. Near 0 the models differ; with few
    questions no difference is significant.
    """
    return float(ks_2samp(ratio.double().numpy(), reference_ratio.double().numpy()).pvalue)


def model_utility(figures: Sequence[float]) -> float:
    """Return the harmonic mean of figures, none negative.

    TOFU has nine: probability, ROUGE-L and `true_better` on retained, author and world questions.
    """
    if not figures or min(figures) < 0:
        raise InvalidInputError(f"Expected figures of at least 0 (got {list(figures)})")
    return 0.0 if min(figures) == 0 else len(figures) / sum(1 / f for f in figures)
