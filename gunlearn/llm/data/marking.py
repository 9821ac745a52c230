"""Mark the tokens to forget in rows: the share of each answer with the highest scores, whole words on request."""

import math
import string
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.core.checks import check_number
from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.llm.data.collate import Collator, PartCollator, Rows, row_batch
from gunlearn.llm.data.selectors import TokenSelector
from gunlearn.llm.data.text_items import answer_tokens
from gunlearn.llm.model.causality import check_declared
from gunlearn.llm.model.head import evaluating

SPACES = ("\u0120", "\u010a", "\u0109", "\u010d", "\u2581")  # byte-level BPE: space, newline, tab, CR; SentencePiece
BREAKS = (*SPACES, " ", "\n", "\t", "\r", "<0x0A>")  # marks of a new word
CONTINUED = "##"  # WordPiece's mark of a piece inside a word


def select_tokens(
    model: nn.Module,
    rows: Rows,
    selector: TokenSelector,
    ratio: float = 0.2,
    whole_word: Any = None,
    suffix_ratio: float = 1.0,
    batch_size: int = 8,
    collator: Collator | None = None,
) -> list[dict[str, Any]]:
    r"""Return new rows with the column `target_mask`, a list of booleans: true at the tokens to forget.

    Marks the :math:`\lceil \rho n \rceil` best of a row's :math:`n` eligible tokens, at least one; of equal scores the
    earlier token. Rows without labels get no mark. Booleans from a selector mark the true tokens, whatever the ratio.

    Args:
        model: the model before unlearning, read in evaluation mode; not changed.
        rows: `input_ids`, `labels` and any further columns; not changed.
        selector: scores the tokens.
        ratio: :math:`\rho`, the share of the eligible tokens to mark, in (0, 1].
        whole_word: a tokenizer: where one piece of a word is marked, mark all its eligible pieces, even beyond `ratio`.
            Does not work for scripts without spaces.
        suffix_ratio: only this last share of the labelled tokens is eligible, in (0, 1]: for plain text, whose
            beginning serves as a prompt. Our reading of the paper's "suffix ratio".
        batch_size: rows at a time.
        collator: pads rows; `PartCollator()` by default.

    Raises:
        InvalidInputError: a ratio outside (0, 1], scores of another shape or NaN.
        InvalidTypeError: `selector` has no `scores`.
    """
    check_declared(model)
    for name, share in (("ratio", ratio), ("suffix_ratio", suffix_ratio)):
        check_number(name, share, positive=True)
        if share > 1:
            raise InvalidInputError(f"Expected '{name}' to be at most 1 (got {share!r})")
    if not isinstance(selector, TokenSelector):
        raise InvalidTypeError(f"Expected 'selector' with a method 'scores' (got {type(selector).__name__})")
    collator = PartCollator() if collator is None else collator
    left = getattr(collator, "padding_side", "right") == "left"
    words = None if whole_word is None else WordIndex(whole_word)
    column = getattr(selector, "column", None)
    out = []
    with evaluating(model):
        for start in range(0, len(rows), batch_size):
            some = [rows[i] for i in range(start, min(start + batch_size, len(rows)))]
            batch = row_batch(model, [_readable(row, column) for row in some], collator)
            if column is not None and "target_mask" in batch:
                batch[column] = batch["target_mask"]
            scores = selector.scores(model, batch).detach()
            eligible = answer_tokens(batch)
            if scores.shape != eligible.shape or bool(scores[eligible].isnan().any()):
                what = "NaN" if scores.shape == eligible.shape else tuple(scores.shape)
                raise InvalidInputError(f"Expected scores {tuple(eligible.shape)} without NaN (got {what})")
            chosen = _best(scores, eligible, ratio, suffix_ratio)
            for i, row in enumerate(some):
                length, total = len(row["input_ids"]), chosen.size(1) + 1
                cut = slice(total - length, None) if left else slice(None, length)
                mark, may = (torch.cat((x.new_zeros(1), x[i]))[cut].tolist() for x in (chosen, eligible))
                if words is not None:
                    mark = words.complete(row["input_ids"], mark, may)
                out.append({**row, "target_mask": mark})
    return out


def _readable(row: Mapping[str, Any], column: str | None) -> dict[str, Any]:
    """Return the columns that a selector reads, with its mask's column named `target_mask`, which collators know."""
    seen = {name: row[name] for name in ("input_ids", "labels", "attention_mask") if name in row}
    return seen | ({"target_mask": row[column]} if column is not None and column in row else {})


def _best(scores: Tensor, eligible: Tensor, ratio: float, suffix_ratio: float) -> Tensor:
    """Return the best of the last eligible tokens of each row; booleans are the choice itself."""
    chosen = torch.zeros_like(eligible)
    for row, mask, out in zip(scores, eligible, chosen, strict=True):
        at = mask.nonzero()[:, 0]
        at = at[at.numel() - _share(suffix_ratio, at.numel()) :]
        best = row[at].sort(descending=True, stable=True).indices[: _share(ratio, at.numel())]
        out[at[row[at] if row.dtype == torch.bool else best]] = True
    return chosen


def _share(ratio: float, count: int) -> int:
    """Return `ratio * count` rounded up, without rounding errors (0.07 x 100 exceeds 7)."""
    return math.ceil(ratio * count - 1e-9)


class WordIndex:
    """Group the pieces of each word, by the marks of byte-level BPE, SentencePiece or WordPiece.

    Special tokens and punctuation are words of their own; in a vocabulary without marks every token is one.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not callable(getattr(tokenizer, "convert_ids_to_tokens", None)):
            raise InvalidTypeError(f"Expected 'whole_word' to be a tokenizer (got {type(tokenizer).__name__})")
        self.tokenizer, self.special = tokenizer, set(tokenizer.all_special_tokens)
        vocabulary = tokenizer.get_vocab()
        spaced = sum(t.startswith(SPACES) for t in vocabulary)
        pieces = sum(len(t) > len(CONTINUED) and t.startswith(CONTINUED) for t in vocabulary)
        self.marks = "space" if spaced > pieces else "piece" if pieces else "none"

    def words(self, input_ids: Sequence[int] | Tensor) -> list[int]:
        """Return the number of each token's word, counted from 0."""
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
        """Return a mask in which each word with a marked piece has all pieces marked that `may` allows."""
        words = self.words(input_ids)
        hit = {word for word, marked in zip(words, mark, strict=True) if marked}
        return [allowed and word in hit for word, allowed in zip(words, may, strict=True)]
