"""Scores of language models per token of given texts, and the figures that use them."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gunlearn.metrics.base import Figure

TEXTS = ("causal_lm",)


@dataclass(frozen=True, eq=False)
class TokenScores:
    """Scores per labelled token, `[num_rows, num_tokens]` on the CPU, zero elsewhere.

    Args:
        log_prob: log-likelihood of the token, in nats.
        mask: which tokens have a label.
        first: whether the token was the model's first choice.
        mean: expected log-likelihood of a token that the model draws there: its negative entropy.
        std: standard deviation of that log-likelihood.
        end: which of these tokens only end their row; memorisation and Min-K% leave them out. `None`: none.
    """

    log_prob: Tensor
    mask: Tensor
    first: Tensor
    mean: Tensor
    std: Tensor
    end: Tensor | None = None

    @property
    def counted(self) -> Tensor:
        """Which tokens figures of memorisation count, boolean `[num_rows, num_tokens]`."""
        return self.mask if self.end is None else self.mask & ~self.end

    @property
    def length(self) -> Tensor:
        """Number of labelled tokens per row, `[num_rows]`."""
        return self.mask.sum(1)

    @property
    def mean_log_prob(self) -> Tensor:
        """Mean over the labelled tokens of each row, `[num_rows]`; NaN without labels."""
        return self.log_prob.sum(1) / self.length


class TextView(Protocol):
    """A language model on one set of rows.

    Attributes:
        scores: of the rows' labelled tokens.
        likelihood: p(answer)^(1/tokens) of each row, or its share among the given answers, `[num_rows]`.
        said: generated answers; `None` where none were generated.
        rouge: their ROUGE-L recall, `[num_rows]`; `None` where none were generated.
        truth: summary of the truth ratios; `None` where rows have no wrong answers.
        in_full: whether to measure memorisation too.
    """

    scores: TokenScores
    likelihood: Tensor
    said: Sequence[str] | None
    rouge: Tensor | None
    truth: float | None
    in_full: bool


def exact_memorization(scores: TokenScores) -> Tensor:
    """Return the share of each row's tokens that are the model's first choice, `[num_rows]`; without `scores.end`."""
    return (scores.first & scores.counted).sum(1) / scores.counted.sum(1)


def extraction_strength(scores: TokenScores, compat: bool = False) -> Tensor:
    """Return the share of each row's tokens that the model completes without a mistake, `[num_rows]`: 1 - k/n.

    Tokens that only end a row (`scores.end`) do not count: a model that recites the answer and then goes on knows it.
    `k` is the length of the shortest beginning of the answer after which every first choice is right; `n` where the
    last token is wrong.

    Args:
        scores: of rows whose labelled tokens are consecutive.
        compat: return at least `1 / n`, as the code of open-unlearning does.
    """
    # Walk back from the last token as long as first choices are right; skip unlabelled tokens.
    counted = scores.counted
    unbroken = (~scores.first & counted).flip(1).cumsum(1).eq(0).flip(1) & counted
    matched = unbroken.sum(1)
    return (matched.clamp_min(1) if compat else matched) / counted.sum(1)


def drma(scores: TokenScores, per_token: bool = False) -> float:
    r"""Return document-level memorisation of OBLIVIATE: the mean over documents of :math:`\sum_t p(x_t | x_{<t})`.

    It grows with the documents' length. A retrained model's is above 0; a lower value than that means that tokens were
    suppressed, not only forgotten.

    Args:
        scores: of documents, every token labelled.
        per_token: divide each document's sum by its number of tokens.
    """
    total = (scores.log_prob.double().exp() * scores.mask).sum(1)
    return float((total / scores.length if per_token else total).mean())


def fluency(texts: Sequence[str]) -> Tensor:
    r"""Return the entropy of each text's pairs and triples of words, `[num_texts]` in bits; 0 for one word or none.

    :math:`\frac12 (\frac23 H_2 + \frac43 H_3)`, as in `arXiv:2202.05262 <https://arxiv.org/abs/2202.05262>`_: a model
    that says the same words again and again has a low one, as a short answer has. Words are separated by blanks.
    """
    return torch.tensor([(_entropy(text.split(), 2) * 2 / 3 + _entropy(text.split(), 3) * 4 / 3) / 2 for text in texts])


def _entropy(words: Sequence[str], size: int) -> float:
    counts = Counter(zip(*(words[i:] for i in range(size)), strict=False))
    total = sum(counts.values())
    return sum(-n / total * math.log2(n / total) for n in counts.values())


class AnswerProbability(Figure):
    """Mean over rows of p(answer)^(1/tokens)."""

    name, heading, tasks = "prob", "probability", TEXTS

    def compute(self, view: TextView) -> float | None:
        return _mean(view.likelihood)


class TokenNLL(Figure):
    """Negative log-likelihood per token, in nats."""

    name, heading, tasks = "nll", "NLL", TEXTS

    def compute(self, view: TextView) -> float | None:
        return -float(view.scores.log_prob.sum() / view.scores.length.sum())


class ExactMemorization(Figure):
    """Share of tokens that are the model's first choice."""

    name, heading, tasks = "exact_memorization", "exact memorisation", TEXTS

    def compute(self, view: TextView) -> float | None:
        return _mean(exact_memorization(view.scores)) if view.in_full else None


class ExtractionStrength(Figure):
    """Share of an answer that the model completes by itself."""

    name, heading, tasks = "extraction_strength", "extraction strength", TEXTS

    def compute(self, view: TextView) -> float | None:
        return _mean(extraction_strength(view.scores)) if view.in_full else None


class DRMA(Figure):
    """Expected number of tokens of a document that the model says right."""

    name, heading, tasks, per_token = "drma", "DRMA", TEXTS, False

    def compute(self, view: TextView) -> float | None:
        return drma(view.scores, self.per_token) if view.in_full else None


class DRMAPerToken(DRMA):
    """DRMA, each document's divided by its length."""

    name, heading, per_token = "drma_per_token", "DRMA per token", True


class RougeL(Figure):
    """ROUGE-L recall of generated answers."""

    name, heading, tasks = "rougeL", "ROUGE-L", TEXTS

    def compute(self, view: TextView) -> float | None:
        return None if view.rouge is None else _mean(view.rouge)


class Fluency(Figure):
    """Entropy of pairs and triples of words in generated answers, in bits: low where a model repeats itself."""

    name, heading, tasks = "fluency", "fluency", TEXTS

    def compute(self, view: TextView) -> float | None:
        return None if view.said is None else _mean(fluency(view.said))


class TruthRatio(Figure):
    """Probability of wrong answers over the right one's: how near to 1 where forgotten, how far below elsewhere."""

    name, heading, tasks = "truth_ratio", "truth ratio", TEXTS

    def compute(self, view: TextView) -> float | None:
        return view.truth


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
