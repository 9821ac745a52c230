"""Four figures of what a model knows about rows."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from gunlearn.llm.data.collate import Rows
from gunlearn.llm.data.rows import is_labelled
from gunlearn.llm.metrics.memorization import exact_memorization, extraction_strength
from gunlearn.llm.metrics.scoring import token_scores

#: Name and meaning of each figure.
ROW_FIGURES = {
    "prob": "mean over rows of p(answer)^(1/tokens)",
    "nll": "negative log-likelihood per token, in nats",
    "exact_memorization": "share of tokens that are the model's first choice",
    "extraction_strength": "share of an answer that the model completes by itself",
}


def figures(
    model: nn.Module, parts: Mapping[str, Rows], most: int = 256, batch_size: int = 8
) -> dict[str, dict[str, float]]:
    """Return the figures of `ROW_FIGURES` by part.

    Args:
        model: a causal language model; not changed.
        parts: rows by name; rows without any label are left out.
        most: most rows per part, evenly spaced; 0 measures nothing.
        batch_size: rows at a time.
    """
    out = {}
    for name, given in parts.items() if most else ():
        rows = [row for row in given if is_labelled(row)]
        step = max(1, len(rows) / most)
        scores = token_scores(model, [rows[int(i * step)] for i in range(min(most, len(rows)))], batch_size)
        out[name] = {
            "prob": float(scores.mean_log_prob.exp().mean()),
            "nll": -float(scores.log_prob.sum() / scores.length.sum()),
            "exact_memorization": float(exact_memorization(scores).mean()),
            "extraction_strength": float(extraction_strength(scores).mean()),
        }
    return out
