"""Scores of given tokens in one pass, for all teacher-forced metrics and membership attacks."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import takewhile
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.collate import Rows, collator_of, row_batches
from gunlearn.llm.data.end_tokens import blanks_of, end_mask, ends_of
from gunlearn.llm.data.text_items import IGNORE, answer_tokens
from gunlearn.llm.model.causality import check_language_model
from gunlearn.llm.model.head import LOGIT_CHUNK, evaluating, last_linear_head, replaced_forward
from gunlearn.llm.model.token_prediction import model_inputs
from gunlearn.losses.reduction import full_precision
from gunlearn.metrics.texts import TokenScores


class NotANumberError(InvalidInputError):
    """A model's log-likelihoods are NaN."""


def answer_logits(
    model: nn.Module, inputs: Mapping[str, Tensor], mask: Tensor, chunk: int = LOGIT_CHUNK
) -> Iterator[Tensor]:
    """Yield logits `[num_positions, vocab_size]` in float32 at the positions of a boolean mask `[batch, tokens - 1]`.

    Holds at most `chunk` logits at a time, if the model returns its head's output unchanged.
    """
    head = last_linear_head(model, inputs["input_ids"])
    if head is not None:
        with replaced_forward(head, lambda hidden: hidden):
            hidden = model(**inputs, use_cache=False).logits[:, :-1][mask]
        for h in hidden.split(max(1, chunk // head.weight.size(0))):
            yield full_precision(F.linear(h.to(head.weight.dtype), head.weight, head.bias))
    else:
        logits = model(**inputs, use_cache=False).logits[:, :-1][mask]
        for piece in logits.split(max(1, chunk // logits.size(-1))):
            yield full_precision(piece)


def token_scores(
    model: nn.Module,
    rows: Rows,
    batch_size: int = 16,
    chunk: int = LOGIT_CHUNK,
    *,
    end: str = "skip",
    tokenizer: Any = None,
) -> TokenScores:
    """Score the labelled tokens of rows, in evaluation mode.

    Args:
        model: a causal language model; not changed.
        rows: `input_ids`, `labels` and, if padded, `attention_mask`.
        batch_size: rows at a time.
        chunk: most logits held at a time.
        end: what exact memorisation, extraction strength and Min-K% do with the end-of-sequence (or chat-closing) token
            of a row: `"skip"` leaves it out, `"keep"` counts it; `"last"` leaves out each row's last labelled token,
            whatever it is, as the code of open-unlearning does. Likelihoods count all labelled tokens.
        tokenizer: names those tokens, or their ids (see `end_tokens`); by default those of the model's configuration.

    Raises:
        InvalidInputError: no rows, or rows without any label or longer than the model's context, or an unknown `end`.
        NotANumberError: a log-likelihood is NaN.
    """
    check_language_model(model)
    if len(rows) == 0:
        raise InvalidInputError("Expected rows to score (got none)")
    collate, found = partial(collator_of(model).pad, marked=False), []
    closing = end, ends_of(model, tokenizer), blanks_of(tokenizer, rows)
    with evaluating(model), torch.no_grad():
        for batch in row_batches(model, rows, collate, batch_size):
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
            values, mask = torch.cat([piece.to(pieces[-1].dtype) for piece in pieces], 1).cpu(), mask.cpu()
            table = values.new_zeros(6, *mask.shape)
            table[:4, mask], table[4], table[5] = values, mask, end_mask(batch, *closing).cpu()
            found.append(table)
    width = max(table.size(2) for table in found)
    log_prob, first, mean, std, labelled, last = torch.cat([F.pad(x, (0, width - x.size(2))) for x in found], 1)
    mask = labelled.bool()
    empty = int((~mask.any(1)).sum())
    if empty:
        raise InvalidInputError(f"Expected rows with labelled tokens (got {empty} without)")
    broken = int(log_prob.isnan().any(1).sum())
    if broken:
        raise NotANumberError(f"Expected a model whose log-likelihoods are numbers (got NaN for {broken} rows)")
    return TokenScores(log_prob=log_prob, mask=mask, first=first.bool(), mean=mean, std=std, end=last.bool())


def prompt_of(row: Mapping[str, Any] | Sequence[int]) -> list[int]:
    """Return the token ids before a row's first label, or the given ids; refuse an empty prompt."""
    ids = prompt_ids(row) if isinstance(row, Mapping) else [int(i) for i in row]
    if not ids:
        raise InvalidInputError("Expected a prompt before the first label (got none); give prompts as token ids")
    return ids


def prompt_ids(row: Mapping[str, Any]) -> list[int]:
    """Return the token ids before a row's first label, without padding; maybe an empty list.

    In a chat with labels in earlier turns (`encode` marks it by `answer_start`) those before its last answer.
    """
    mask = row.get("attention_mask")
    columns = row["input_ids"], row["labels"], [1] * len(row["input_ids"]) if mask is None else mask
    kept = [(int(i), int(y)) for i, y, m in zip(*columns, strict=True) if m]
    if row.get("answer_start") is not None:
        return [i for i, _ in kept[: int(row["answer_start"])]]
    return [i for i, _ in takewhile(lambda pair: pair[1] == IGNORE, kept)]
