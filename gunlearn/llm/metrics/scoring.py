"""What a model says of given tokens, in one pass: all that teacher-forced metrics and membership attacks read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.collate import collator_of
from gunlearn.llm.model.causal_lm import IGNORE, answer_tokens, model_inputs
from gunlearn.llm.model.head import CHUNK, device_of, evaluating, head_comes_last, output_head, replaced_head
from gunlearn.losses.reduction import full_precision
from gunlearn.metrics.texts import TokenScores

COLUMNS = ("input_ids", "labels", "attention_mask")  # of a row; others may be there in some rows alone


class NotANumberError(InvalidInputError):
    """A model says NaN of tokens: it is broken, and has no figures."""


def answer_logits(model: nn.Module, inputs: Mapping[str, Tensor], mask: Tensor, chunk: int = CHUNK) -> Iterator[Tensor]:
    """Logits at some positions, in float32, a few at a time.

    Args:
        model: a causal language model.
        inputs: what it is called with.
        mask: positions to predict from, boolean `[batch, tokens - 1]`.
        chunk: logits held at a time, where nothing follows the model's head.

    Yields:
        `[num_positions, vocab_size]`, all positions in the order of `mask`.
    """
    if head_comes_last(model, inputs["input_ids"]):
        head = output_head(model)
        with replaced_head(model, lambda hidden: hidden):
            hidden = model(**inputs, use_cache=False).logits[:, :-1][mask]
        for h in hidden.split(max(1, chunk // head.weight.size(0))):
            yield full_precision(F.linear(h.to(head.weight.dtype), head.weight, head.bias))
    else:
        logits = model(**inputs, use_cache=False).logits[:, :-1][mask]
        for piece in logits.split(max(1, chunk // logits.size(-1))):
            yield full_precision(piece)


def token_scores(
    model: nn.Module, rows: Sequence[Mapping[str, Any]], batch_size: int = 16, chunk: int = CHUNK
) -> TokenScores:
    """Score the labelled tokens of rows.

    Args:
        model: a causal language model; its mode is put back.
        rows: `input_ids`, `labels` (-100: not scored), optionally `attention_mask`.
        batch_size: rows at a time.
        chunk: logits held at a time.

    Raises:
        InvalidInputError: no rows, rows without any label or longer than the model's context, or a model that says NaN
            of them.
    """
    if len(rows) == 0:
        raise InvalidInputError("Expected rows to score (got none)")
    collate, device, found = collator_of(model), device_of(model), []
    with evaluating(model), torch.no_grad():
        for start in range(0, len(rows), batch_size):
            some = [rows[i] for i in range(start, min(start + batch_size, len(rows)))]
            batch = collate([{name: row[name] for name in COLUMNS if name in row} for row in some])
            batch = {name: value.to(device) for name, value in batch.items()}
            inputs, label = model_inputs(model, batch)
            mask = answer_tokens(batch)
            label, pieces = label[mask], [label.new_zeros(4, 0, dtype=torch.float32)]
            for logits in answer_logits(model, inputs, mask, chunk):
                log_p, y = logits.log_softmax(-1), label[: logits.size(0)]
                label, p = label[logits.size(0) :], log_p.exp()
                own = log_p.gather(1, y[:, None])[:, 0]
                clean = torch.where(p == 0, 0, log_p)  # 0 log 0 = 0
                mean = (p * clean).sum(-1)
                std = (p * (clean - mean[:, None]).square()).sum(-1).sqrt()
                pieces.append(torch.stack([own, (logits.argmax(-1) == y).to(own.dtype), mean, std]))
            values = torch.cat([piece.to(pieces[-1].dtype) for piece in pieces], 1).cpu()
            mask = mask.cpu()
            found.append([values.new_zeros(mask.shape).masked_scatter(mask, v) for v in values] + [mask])
    width = max(parts[0].size(1) for parts in found)
    padded = [[F.pad(x, (0, width - x.size(1))) for x in parts] for parts in found]
    log_prob, first, mean, std, mask = (torch.cat(column) for column in zip(*padded, strict=True))
    empty = int((~mask.any(1)).sum())
    if empty:
        raise InvalidInputError(f"Expected rows with labelled tokens (got {empty} without)")
    broken = int(log_prob.isnan().any(1).sum())
    if broken:
        raise NotANumberError(f"Expected a model whose log-likelihoods are numbers (got NaN for {broken} rows)")
    return TokenScores(log_prob=log_prob, mask=mask, first=first.bool(), mean=mean, std=std)


def prompt_of(row: Mapping[str, Any] | Sequence[int]) -> list[int]:
    """Token ids before a row's first label; ids given as such are taken as they are.

    Raises:
        InvalidInputError: nothing comes before the first label.
    """
    if not isinstance(row, Mapping):
        ids = [int(i) for i in row]
    else:
        mask = row.get("attention_mask")
        mask = [1] * len(row["input_ids"]) if mask is None else list(mask)
        kept = [(int(i), int(y)) for i, y, m in zip(row["input_ids"], row["labels"], mask, strict=True) if m]
        first = next((n for n, (_, y) in enumerate(kept) if y != IGNORE), len(kept))
        ids = [i for i, _ in kept[:first]]
    if not ids:
        raise InvalidInputError("Expected a prompt before the first label (got none); give prompts as token ids")
    return ids
