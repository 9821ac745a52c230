"""The tokens that end an answer: which they are, and where they stand in rows."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor, nn

from gunlearn.core.checks import check_choice
from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.text_items import IGNORE, answer_tokens

#: What figures of memorisation do with the token that ends a row.
END_MODES = ("skip", "keep", "last")


def end_tokens(tokenizer: Any) -> tuple[int, ...]:
    """Return the ids that end an answer: the tokenizer's, and the one that closes the assistant's turn in chats.

    `tokenizer` may also be the ids themselves (an integer, or several). Refuses a tokenizer without such an id.
    """
    ids = getattr(tokenizer, "eos_token_id", tokenizer)
    ids = (ids,) if isinstance(ids, int) else tuple(ids) if isinstance(ids, (list, tuple, set, frozenset)) else ()
    if getattr(tokenizer, "chat_template", None) is not None:
        closing = _closing_token(tokenizer)
        ids += () if closing is None or closing in ids else (closing,)
    if not ids:
        raise InvalidInputError(f"Expected a tokenizer with 'eos_token_id', or the id (got {type(tokenizer).__name__})")
    return ids


def _closing_token(tokenizer: Any) -> int | None:
    """Return the first special token after the assistant's answer in the template, `None` without one."""
    said = "gunlearn"
    chat = [{"role": "user", "content": "who?"}, {"role": "assistant", "content": said}]
    try:
        _, behind, after = tokenizer.apply_chat_template(chat, tokenize=False).rpartition(said)
    except TemplateError:  # a template may need more than two messages
        return None
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}
    special.discard(getattr(tokenizer, "unk_token_id", None))
    found = tokenizer(after, add_special_tokens=False)["input_ids"] if behind and after else []
    return next((i for i in found if i in special), None)


def ends_of(model: nn.Module, tokenizer: Any = None) -> tuple[int, ...]:
    """Return the ids that end an answer: of `end_tokens(tokenizer)`, else of the model's configurations; maybe none."""
    if tokenizer is not None and _has_ends(tokenizer):
        return end_tokens(tokenizer)
    found: dict[int, None] = {}
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else None
    for source in (getattr(model, "generation_config", None), config, text):
        ids = getattr(source, "eos_token_id", None)
        found |= dict.fromkeys([ids] if isinstance(ids, int) else ids or ())
    return tuple(found)


def blanks_of(tokenizer: Any, rows: Iterable[Mapping[str, Any]]) -> tuple[int, ...]:
    """Return the ids with which rows end that are only blanks, such as the line break after a chat's closing token."""
    if not hasattr(tokenizer, "decode"):
        return ()
    labelled = ([int(y) for y in row["labels"] if int(y) != IGNORE] for row in rows)
    last = {ids[-1] for ids in labelled if ids}
    return tuple(i for i in sorted(last) if not tokenizer.decode([i]).strip())


def end_mask(items: Mapping[str, Tensor], end: str, ends: Collection[int] = (), blanks: Collection[int] = ()) -> Tensor:
    """Return which of the predicted tokens only end their row, boolean `[batch, tokens - 1]`.

    A row whose labelled tokens would all be left out keeps them.

    Args:
        items: `input_ids`, `labels` and, if padded, `attention_mask`, `[batch, tokens]`.
        end: `"skip"` takes the tokens of `ends` after a row's last other labelled token, with `blanks` behind them;
            `"keep"` none; `"last"` each row's last labelled token, whatever it is, as the code of open-unlearning does.
        ends: ids that end an answer.
        blanks: ids that may follow them.
    """
    check_choice("end", end, END_MODES)
    mask, label = answer_tokens(items), items["labels"][:, 1:]
    if end == "keep" or (end == "skip" and not ends):
        return torch.zeros_like(mask)
    if end == "last":
        out = mask & (mask.flip(1).cumsum(1).flip(1) == 1)
    else:
        closing = mask & torch.isin(label, label.new_tensor(list(ends)))
        other = mask & ~closing & ~torch.isin(label, label.new_tensor(list(blanks)))
        tail = mask & (other.flip(1).cumsum(1).flip(1) == 0)
        out = tail & ((closing & tail).cumsum(1) > 0)
    return out & (mask & ~out).any(1, keepdim=True)


def _has_ends(tokenizer: Any) -> bool:
    """Return whether `end_tokens` finds an id in the tokenizer, or in the ids given in its place."""
    ids = getattr(tokenizer, "eos_token_id", tokenizer)
    whole = isinstance(ids, int | list | tuple | set | frozenset)
    return whole or getattr(tokenizer, "chat_template", None) is not None
