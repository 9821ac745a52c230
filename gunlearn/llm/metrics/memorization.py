"""How much of a text a model can say by itself, once it is led there."""

from __future__ import annotations

from torch import Tensor

from gunlearn.llm.metrics.scoring import TokenScores


def exact_memorization(scores: TokenScores) -> Tensor:
    """Share of each row's tokens that are the model's first choice, given what is before them, `[num_rows]`."""
    return scores.first.sum(1) / scores.length


def extraction_strength(scores: TokenScores, compat: bool = False) -> Tensor:
    """Share of each row's tokens that the model completes without a mistake, `[num_rows]`: 1 - k/n.

    `k` is the shortest beginning of the answer after which every first choice is the right token; 0 where the last
    token is wrong already.

    Args:
        scores: of rows whose labelled tokens are consecutive.
        compat: never below `1 / n`, as in the code of open-unlearning, where a model that has nothing right gets that.
    """
    # Walking back from the last token, as long as first choices are right; unlabelled tokens count for nothing.
    unbroken = (~scores.first & scores.mask).flip(1).cumsum(1).eq(0).flip(1) & scores.mask
    matched = unbroken.sum(1)
    return (matched.clamp_min(1) if compat else matched) / scores.length


def drma(scores: TokenScores, per_token: bool = False) -> float:
    r"""Document-level memorisation of OBLIVIATE: mean over documents of :math:`\sum_t p(x_t | x_{<t})`.

    It grows with the documents' length, and a retrained model's is not 0: below that a model has not forgotten but been
    pushed.

    Args:
        scores: of documents, every token labelled.
        per_token: divide each document's sum by its number of tokens.
    """
    total = (scores.log_prob.double().exp() * scores.mask).sum(1)
    return float((total / scores.length if per_token else total).mean())
