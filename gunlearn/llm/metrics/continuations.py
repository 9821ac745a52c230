"""MUSE's verbatim and knowledge memory (`arXiv:2407.06460 <https://arxiv.org/abs/2407.06460>`_)."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.encoding import begin_tokens
from gunlearn.llm.data.text_items import IGNORE
from gunlearn.llm.metrics.tofu_metrics import rouge


def continuation_rows(
    texts: Sequence[str], tokenizer: Any, prompt_tokens: int = 200, most: int = 128
) -> list[dict[str, Any]]:
    """Return a row per text: its first `prompt_tokens` tokens are the prompt, the next, at most `most`, have labels.

    The tokenizer's token to begin with comes first, where it has one. Of a text with fewer than twice `prompt_tokens`
    tokens the first half is the prompt, `"halved"` is `True`, and `"prompt_tokens"` says its length. The truth is under
    `"answer"`.

    Raises:
        InvalidInputError: a text of less than two tokens; the message names it, counted from 1.
    """
    out, begin = [], begin_tokens(tokenizer, None)
    for i, text in enumerate(texts, 1):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) < 2:
            raise InvalidInputError(f"Expected texts of two or more tokens (got {len(ids)} in text {i})")
        cut = min(prompt_tokens, len(ids) // 2)
        prompt, truth = ids[:cut], ids[cut : cut + most]
        labels = [IGNORE] * (len(begin) + cut) + truth
        row = {"input_ids": begin + prompt + truth, "labels": labels, "answer": tokenizer.decode(truth)}
        out.append(row | ({"halved": True, "prompt_tokens": cut} if cut < prompt_tokens else {}))
    return out


def halved_note(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return how many rows of `continuation_rows` have a shorter prompt than asked for, and which; empty for none."""
    lengths = sorted(row["prompt_tokens"] for row in rows if row.get("halved"))
    if not lengths:
        return ""
    span = f"{lengths[0]} tokens" if lengths[0] == lengths[-1] else f"{lengths[0]} to {lengths[-1]} tokens"
    return (
        f"{len(lengths)} of {len(rows)} texts are shorter than twice the prompt that was asked for: the first half of "
        f"each is its prompt, {span} (--verbatim-prompt)"
    )


def memory(said: Sequence[str], truths: Sequence[str]) -> Tensor:
    """Return ROUGE-L F1, with stemming, of what a model said and what was to be said, `[num_texts]`.

    Of continuations it is MUSE's verbatim memory, of answers its knowledge memory.
    """
    return rouge(said, truths)["rougeL_f1"]
