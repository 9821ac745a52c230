"""Likelihoods of rows under a model, measured over all processes."""

from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.collate import Collator
from gunlearn.llm.data.end_tokens import end_mask, ends_of
from gunlearn.llm.data.text_items import IGNORE, answer_tokens
from gunlearn.llm.model.head import unwrap
from gunlearn.llm.model.token_prediction import TokenPrediction


def likelihoods(
    model: nn.Module, rows: Any, collator: Collator, batch_size: int, processes: Accelerator
) -> dict[str, float]:
    """Measure a model (in its distributed wrapper and current mode) on rows that all processes share.

    Returns `nll` per token, in nats; `prob`, the mean over rows of :math:`p(y|x)^{1/|y|}`; `exact_memorization`, the
    share of tokens that are the model's first choice, without those that only end a row. Rows without labels do not
    count; refuses rows without any label.
    A sharded model needs all processes at once: where rows do not divide evenly, some read one more, not counted.
    """
    if len(rows) == 0:
        raise InvalidInputError("Expected rows to evaluate (got none)")
    rank, world = processes.process_index, processes.num_processes
    mine = [rank + i * world for i in range(-(-len(rows) // world))]
    within = Subset(rows, [min(i, len(rows) - 1) for i in mine])
    loader = DataLoader(within, batch_size=batch_size, collate_fn=collator)
    counts = (torch.tensor(mine) < len(rows)).split(batch_size)
    task, sums = TokenPrediction(("logits",)), torch.zeros(6, dtype=torch.float64)
    ends = ends_of(unwrap(model))
    for batch, counted in zip(loader, counts, strict=True):
        batch = {name: value.to(processes.device) for name, value in batch.items()}
        batch["labels"] = batch["labels"].masked_fill(~counted.to(processes.device)[:, None], IGNORE)
        p, mask = task.decode(model, None, batch), answer_tokens(batch)
        tokens, nll = mask.sum(1), -p.log_prob.sum(1)
        some = tokens > 0
        inner = mask & ~end_mask(batch, "skip", ends)
        right = ((cast(Tensor, p.logits).argmax(-1) == batch["labels"][:, 1:]) & inner).sum()
        prob = (-nll[some] / tokens[some]).exp().sum()
        sums += torch.stack([x.double().cpu() for x in (nll.sum(), tokens.sum(), prob, some.sum(), right, inner.sum())])
    if world > 1:
        sums = processes.reduce(sums.to(processes.device), "sum")
    nll, tokens, prob, sequences, right, counted = sums.tolist()
    if not tokens:
        raise InvalidInputError(f"Expected rows with labelled tokens to evaluate (got {len(rows)} without)")
    return {"nll": nll / tokens, "prob": prob / sequences, "exact_memorization": right / counted}
