"""Memorisation: how much of a text a model continues by itself."""

from __future__ import annotations

from torch import Tensor

from gunlearn.llm.metrics.scoring import TokenScores


def exact_memorization(scores: TokenScores) -> Tensor:
    """Return the share of each row's tokens that are the model's first choice after those before, `[num_rows]`."""
    return scores.first.sum(1) / scores.length


def extraction_strength(scores: TokenScores, compat: bool = False) -> Tensor:
    """Return the share of each row's tokens that the model completes without a mistake, `[num_rows]`: 1 - k/n.

    `k` is the length of the shortest beginning of the answer after which every first choice is the right token, `n` the
    length of the answer; 0 where the last token is wrong.

    Args:
        scores: scores of rows whose labelled tokens are consecutive.
        compat: never return less than `1 / n`, as the code of open-unlearning.
    """
    # From the last token back, as long as first choices are right; unlabelled tokens do not count.
    unbroken = (~scores.first & scores.mask).flip(1).cumsum(1).eq(0).flip(1) & scores.mask
    matched = unbroken.sum(1)
    return (matched.clamp_min(1) if compat else matched) / scores.length


def drma(scores: TokenScores, per_token: bool = False) -> float:
    r"""Return OBLIVIATE's document-level memorisation: the mean over documents of :math:`\sum_t p(x_t | x_{<t})`.

    It grows with the documents' length. A retrained model's is not 0; a model below that is damaged.

    Args:
        scores: scores of documents in which every token has a label.
        per_token: divide each document's sum by its number of tokens.
    """
    total = (scores.log_prob.double().exp() * scores.mask).sum(1)
    return float((total / scores.length if per_token else total).mean())
