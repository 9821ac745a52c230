"""Marks the tokens to forget in rows: a share of each answer, the highest scores first, whole words if asked."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.core.checks import check_number
from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.llm.data.collate import PartCollator
from gunlearn.llm.data.selectors import TokenSelector
from gunlearn.llm.model.causal_lm import answer_tokens
from gunlearn.llm.model.head import device_of, evaluating

SPACES = ("\u0120", "\u010a", "\u0109", "\u010d", "\u2581")  # byte-level BPE: space, newline, tab, CR; SentencePiece
BREAKS = (*SPACES, " ", "\n", "\t", "\r", "<0x0A>")  # what begins a word, and ends the one before
CONTINUED = "##"  # WordPiece


def select_tokens(
    model: nn.Module,
    rows: Sequence[Mapping[str, Any]],
    selector: TokenSelector,
    ratio: float = 0.2,
    whole_word: Any = None,
    suffix_ratio: float = 1.0,
    batch_size: int = 8,
    collator: Callable | None = None,
) -> list[dict[str, Any]]:
    r"""Rows with the column `target_mask`: true at the tokens to forget, false at the rest.

    In each row the :math:`\lceil \rho n \rceil` best of its :math:`n` eligible tokens, at least one; among equal scores
    the earlier token. Rows without labels get none. A selector that answers with booleans has chosen already: `ratio`
    does not apply.

    Args:
        model: the model that knows; not changed, and read in evaluation mode.
        rows: `input_ids`, `labels` and what else they hold; not changed.
        selector: scores the tokens.
        ratio: :math:`\rho`, the share of the eligible tokens to mark, in (0, 1].
        whole_word: a tokenizer: wherever a piece of a word is marked, all eligible pieces of it are, beyond `ratio` if
            need be. Needs marks of where words begin, which scripts without spaces do not have.
        suffix_ratio: the last share of the labelled tokens is eligible, in (0, 1]: for plain text, where the beginning
            serves as a prompt. A reading of ours of the paper's "suffix ratio".
        batch_size: rows at a time.
        collator: pads rows; `PartCollator()` by default.

    Returns:
        New rows, `target_mask` a list of booleans.

    Raises:
        InvalidInputError: a ratio outside (0, 1], scores of another shape or NaN.
        InvalidTypeError: `selector` has no `scores`.
    """
    for name, value in (("ratio", ratio), ("suffix_ratio", suffix_ratio)):
        check_number(name, value, positive=True)
        if value > 1:
            raise InvalidInputError(f"Expected '{name}' to be at most 1 (got {value!r})")
    if not isinstance(selector, TokenSelector):
        raise InvalidTypeError(f"Expected 'selector' with a method 'scores' (got {type(selector).__name__})")
    collator = PartCollator() if collator is None else collator
    left = getattr(collator, "padding_side", "right") == "left"
    words = None if whole_word is None else WordIndex(whole_word)
    column = getattr(selector, "column", None)
    device, out = device_of(model), []
    with evaluating(model):
        for start in range(0, len(rows), batch_size):
            some = [rows[i] for i in range(start, min(start + batch_size, len(rows)))]
            batch = collator([_readable(row, column) for row in some])
            batch = {name: value.to(device) for name, value in batch.items()}
            if column is not None and "target_mask" in batch:
                batch[column] = batch["target_mask"]
            scores = selector.scores(model, batch).detach()
            eligible = answer_tokens(batch)
            if scores.shape != eligible.shape or bool(scores[eligible].isnan().any()):
                what = "NaN" if scores.shape == eligible.shape else tuple(scores.shape)
                raise InvalidInputError(f"Expected scores {tuple(eligible.shape)} without NaN (got {what})")
            chosen = _best(scores, _suffix(eligible, suffix_ratio), ratio)
            for i, row in enumerate(some):
                length, total = len(row["input_ids"]), chosen.size(1) + 1
                cut = slice(total - length, None) if left else slice(None, length)
                mark, may = (torch.cat((x.new_zeros(1), x[i]))[cut].tolist() for x in (chosen, eligible))
                if words is not None:
                    mark = words.complete(row["input_ids"], mark, may)
                out.append({**row, "target_mask": mark})
    return out


def _readable(row: Mapping[str, Any], column: str | None) -> dict[str, Any]:
    """What a selector may see of a row: a mask under another name travels as `target_mask`, which collators know."""
    seen = {name: row[name] for name in ("input_ids", "labels", "attention_mask") if name in row}
    return seen | ({"target_mask": row[column]} if column is not None and column in row else {})


def _suffix(eligible: Tensor, ratio: float) -> Tensor:
    """The last share of each row's eligible tokens."""
    after = eligible.flip(1).long().cumsum(1).flip(1)  # how many from here on, this one included
    keep = torch.tensor([[_share(ratio, n)] for n in eligible.sum(1).tolist()], device=eligible.device)
    return eligible & (after <= keep)


def _best(scores: Tensor, eligible: Tensor, ratio: float) -> Tensor:
    if scores.dtype == torch.bool:
        return scores & eligible
    chosen = torch.zeros_like(eligible)
    for row, mask, out in zip(scores, eligible, chosen, strict=True):
        at = mask.nonzero()[:, 0]
        best = row[at].sort(descending=True, stable=True).indices[: _share(ratio, at.numel())]
        out[at[best]] = True
    return chosen


def _share(ratio: float, count: int) -> int:
    """The share rounded up; a product that is whole but for rounding (0.07 x 100) is not."""
    return math.ceil(ratio * count - 1e-9)


class WordIndex:
    """Which pieces make up one word, from the marks of byte-level BPE, SentencePiece or WordPiece.

    Special tokens and punctuation are words of their own. A tokenizer without marks has one word per token.

    Args:
        tokenizer: of transformers; its vocabulary tells which marks it uses.

    Raises:
        InvalidTypeError: no tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        """See the class."""
        if not callable(getattr(tokenizer, "convert_ids_to_tokens", None)):
            raise InvalidTypeError(f"Expected 'whole_word' to be a tokenizer (got {type(tokenizer).__name__})")
        self.tokenizer, self.special = tokenizer, set(tokenizer.all_special_tokens)
        vocabulary = tokenizer.get_vocab()
        spaced = sum(t.startswith(SPACES) for t in vocabulary)
        pieces = sum(len(t) > len(CONTINUED) and t.startswith(CONTINUED) for t in vocabulary)
        self.marks = "space" if spaced > pieces else "piece" if pieces else "none"

    def words(self, input_ids: Sequence[int] | Tensor) -> list[int]:
        """The number of the word that each token belongs to, counted from 0."""
        ids = [int(i) for i in input_ids]
        tokens, out, word = self.tokenizer.convert_ids_to_tokens(ids), [], -1
        for i, token in enumerate(tokens):
            word += i == 0 or self._begins(tokens[i - 1], token)
            out.append(word)
        return out

    def _begins(self, before: str, token: str) -> bool:
        if self.marks == "none" or self._alone(before) or self._alone(token):
            return True
        if self.marks == "piece":
            return not token.startswith(CONTINUED)
        return token.startswith(BREAKS) or before.endswith(BREAKS)

    def _alone(self, token: str) -> bool:
        text = token[len(CONTINUED) :] if self.marks == "piece" and token.startswith(CONTINUED) else token
        text = text.strip("".join(SPACES))
        return token in self.special or (bool(text) and all(c in string.punctuation for c in text))

    def complete(self, input_ids: Sequence[int] | Tensor, mark: list[bool], may: list[bool]) -> list[bool]:
        """A mask in which every word with a marked piece has all pieces marked that `may` be."""
        words = self.words(input_ids)
        hit = {word for word, marked in zip(words, mark, strict=True) if marked}
        return [allowed and word in hit for word, allowed in zip(words, may, strict=True)]
