"""How likely a model holds rows to be, over all processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from gunlearn.errors import InvalidInputError
from gunlearn.llm.model.causal_lm import IGNORE, CausalLM


def likelihoods(
    model: nn.Module, rows: Any, collator: Callable[[Sequence], Mapping[str, Tensor]], batch_size: int, to: Accelerator
) -> dict[str, float]:
    """Figures of a model, in the mode that it is in, on rows.

    Every process reads as many rows, the last ones maybe a row over that does not count: a sharded model can only be
    called by all at once.

    Args:
        model: a causal language model, in its distributed wrapper if it has one.
        rows: anything with a length and integer indices.
        collator: makes a batch of rows.
        batch_size: rows at a time.
        to: the processes.

    Returns:
        `nll` per token, in nats; `prob`, the mean over rows of :math:`p(y|x)^{1/|y|}`; `exact_memorization`, the share
        of tokens that are the model's first choice. Rows without labels do not count.

    Raises:
        InvalidInputError: no rows, or none with a label.
    """
    if len(rows) == 0:
        raise InvalidInputError("Expected rows to evaluate (got none)")
    rank, world = to.process_index, to.num_processes
    mine = [rank + i * world for i in range(-(-len(rows) // world))]
    within = Subset(rows, [min(i, len(rows) - 1) for i in mine])
    loader = DataLoader(within, batch_size=batch_size, collate_fn=collator)
    counts = (torch.tensor(mine) < len(rows)).split(batch_size)
    task, sums = CausalLM(("logits", "label")), torch.zeros(5, dtype=torch.float64)
    for batch, counted in zip(loader, counts, strict=True):
        batch = {name: value.to(to.device) for name, value in batch.items()}
        batch["labels"] = batch["labels"].masked_fill(~counted.to(to.device)[:, None], IGNORE)
        p = task.decode(model, None, batch)
        tokens, nll = p.mask.sum(1), -p.log_prob.sum(1)
        some = tokens > 0
        right = ((p.logits.argmax(-1) == p.label) & p.mask).sum()
        prob = (-nll[some] / tokens[some]).exp().sum()
        sums += torch.stack([x.double().cpu() for x in (nll.sum(), tokens.sum(), prob, some.sum(), right)])
    if world > 1:
        sums = to.reduce(sums.to(to.device), "sum")
    nll, tokens, prob, sequences, right = sums.tolist()
    if not tokens:
        raise InvalidInputError(f"Expected rows with labelled tokens to evaluate (got {len(rows)} without)")
    return {
        "nll": nll / tokens,
        "prob": prob / sequences,
        "exact_memorization": right / tokens,
    }
