"""Tokenise questions and answers into rows, with an exact boundary between prompt and answer."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from gunlearn.core.checks import check_choice
from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.llm.data.record_shapes import canonical, tell_unread
from gunlearn.llm.data.record_text import TEMPLATE as TEMPLATE  # re-exported
from gunlearn.llm.data.record_text import RecordText, as_text, checked_template
from gunlearn.llm.data.text_items import IGNORE


def encode(
    records: Sequence[Mapping[str, Any]],
    tokenizer: Any,
    *,
    template: str | None = None,
    chat: bool | None = None,
    system: str | None = None,
    max_length: int | None = None,
    long_answers: str = "error",
    bos: bool | None = None,
    eos: bool = True,
    turns: str = "all",
) -> list[dict[str, Any]]:
    """Tokenise records into rows for `UnlearnTrainer`.

    A row has `input_ids`, `labels` (the answer's tokens, and in a chat those of the assistant's earlier turns with
    their ends; -100 elsewhere; all tokens of bare `text`), the texts `prompt` (all before the last answer) and
    `answer`, `target_mask` for targets, which are looked for in the last answer, and `answer_start`, the place of the
    last answer, where an earlier one has labels. It begins with exactly the tokens that the model reads when asked:
    prompt and answer are tokenised together, or apart where the tokenizer would merge across the boundary.

    Args:
        records: see `read_records`. `question` + `answer` go through the chat template or `template`, `messages`
            through the chat template (the last one is the answer), `prompt` + `completion` and `text` stay unchanged.
            With `target` (one or more strings in the answer) in each record, rows have a `target_mask` of its tokens.
        tokenizer: a tokenizer of transformers; needs no padding token.
        template: `{question}`, then `{answer}`, whose first token has the blanks before it; `TEMPLATE` by default.
        chat: apply the tokenizer's chat template to questions; by default where it has one and `template` is not given.
        system: first message for chats without a system message.
        max_length: most tokens of a row. Prompts are cut from the left, answers kept whole.
        long_answers: for answers that still do not fit, `"error"` raises and `"cut"` cuts them with a warning.
        bos: begin with the tokenizer's begin token; by default where the tokenizer itself does, never in chats.
        eos: end answers with the end-of-sequence token, unless a chat template has closed them.
        turns: which turns of the assistant have labels, `"all"` or the `"last"` one.

    Raises:
        InvalidInputError: empty or too long answers (the message names the rows, counted from 1), a chat without a chat
            template, a template without its two fields or beside `chat=True`, a system message without any chat,
            targets that their answer lacks, or a chat template that writes earlier answers in another way
            (`turns="last"` leaves them without labels).

    Warns:
        UserWarning: answers or prompts were cut, fields with texts are not read, or answers are unknown tokens.
    """
    check_tokenizer(tokenizer)
    chat, template = checked_template(template, chat)
    check_choice("long_answers", long_answers, ("error", "cut"))
    check_choice("turns", turns, ("all", "last"))
    if max_length is not None and max_length < 2:
        raise InvalidInputError(f"Expected 'max_length' of at least 2 (got {max_length})")
    records = [canonical(record, f"row {i}") for i, record in enumerate(records, 1)]
    tell_unread(records)
    texts = [as_text(record, i, tokenizer, template, chat, system, turns) for i, record in enumerate(records, 1)]
    targets = [record.get("target") for record in records]
    _check_texts(texts, targets, tokenizer, system)
    begins = {chatted: begin_tokens(tokenizer, bos, chatted) for chatted in {text.chatted for text in texts}}
    rows, too_long, shortened, unknown = [], [], [], []
    for i, (text, target) in enumerate(zip(texts, targets, strict=True), 1):
        begin = begins[text.chatted]
        before, after, spans = _tokens(tokenizer, text.prompt, text.after, offsets=target is not None)
        said = _labels_of(tokenizer, text, before, i)
        unknown += [i] if set(after) == {getattr(tokenizer, "unk_token_id", None)} else []
        mask = [] if target is None else _target_mask(text.after, target, spans, i)
        closed = text.chatted and _is_special(tokenizer, after[-1])
        if eos and tokenizer.eos_token_id is not None and not closed:
            after.append(tokenizer.eos_token_id)
        if max_length is not None:
            context = begin or before[-1:]  # one token at least, to predict the answer's first token from
            room = max_length - len(begin) - len(after)
            if max_length < len(context) + len(after):
                too_long.append(i)
                begin, before, said, after = context, [], [], after[: max_length - len(context)]
            else:
                shortened += [i] if len(before) > room else []
                before, said = (tokens[max(0, len(tokens) - room) :] for tokens in (before, said))
        head = begin + before
        row: dict[str, Any] = {"input_ids": head + after, "labels": [IGNORE] * len(begin) + said + after}
        if target is not None:  # padded for the end token, or cut with the answer
            row["target_mask"] = ([False] * len(head) + mask + [False])[: len(head) + len(after)]
        if any(label != IGNORE for label in said):  # the first label is no longer where the last answer starts
            row["answer_start"] = len(head)
        rows.append(row | {"prompt": text.prompt, "answer": text.answer})
    if unknown:
        warnings.warn(
            f"the answers of {named_rows(unknown)} are {tokenizer.unk_token!r} alone: the tokenizer knows none of "
            "their words, and nothing of them can be learned or forgotten",
            UserWarning,
            stacklevel=2,
        )
    if long_answers == "error":
        _tell_cut(shortened, [], max_length)
        _refuse(f"answers that fit into {max_length} tokens", too_long)
    else:
        _tell_cut(shortened, too_long, max_length)
    return rows


def _check_texts(texts: Sequence[RecordText], targets: Sequence[Any], tokenizer: Any, system: str | None) -> None:
    """Refuse a system message that no chat takes, empty answers, and targets in some rows alone."""
    # Bare texts need no system message (other parts may be chats); prompts without a chat template would lose it.
    asked = getattr(tokenizer, "chat_template", None) is None or any(text.prompt for text in texts)
    if system is not None and asked and not any(text.chatted for text in texts):
        raise InvalidInputError("Expected rows that go through a chat template for 'system' (got none)")
    _refuse("answers that are not empty", [i for i, text in enumerate(texts, 1) if not text.answer])
    if any(t is not None for t in targets):
        _refuse("'target' in every row or in none", [i for i, t in enumerate(targets, 1) if t is None])


def _tell_cut(prompts: list[int], answers: list[int], max_length: int | None) -> None:
    """Warn of rows that were cut."""
    if prompts:
        warnings.warn(
            f"prompts of {len(prompts)} rows were cut from the left, to fit into {max_length} tokens: "
            f"{named_rows(prompts)}",
            UserWarning,
            stacklevel=3,
        )
    if answers:
        warnings.warn(f"answers of {named_rows(answers)} were cut to {max_length} tokens", UserWarning, stacklevel=3)


def check_tokenizer(tokenizer: Any) -> None:
    """Refuse what cannot turn a text into tokens, such as a tokenizer's name."""
    if not callable(tokenizer) or not hasattr(tokenizer, "decode"):
        raise InvalidTypeError(
            f"Expected a tokenizer of transformers (got {type(tokenizer).__name__} {str(tokenizer)!r:.60}); load it "
            "with AutoTokenizer.from_pretrained(...)"
        )


def _labels_of(tokenizer: Any, text: RecordText, before: list[int], number: int) -> list[int]:
    """Return the labels of a prompt's tokens: those of the assistant's earlier turns."""
    labels = [IGNORE] * len(before)
    for start, end in text.earlier:
        first, last = (
            len(tokenizer(text.prompt[:place], add_special_tokens=False, verbose=False)["input_ids"])
            for place in (start, end)
        )
        if tokenizer(text.prompt[:end], add_special_tokens=False, verbose=False)["input_ids"] != before[:last]:
            raise InvalidInputError(
                f"Expected a tokenizer with a boundary between turns (got one that merges across it, row {number}); "
                "turns='last' leaves earlier answers without labels"
            )
        labels[first:last] = before[first:last]
    return labels


def _tokens(tokenizer: Any, prompt: str, answer: str, offsets: bool) -> tuple[list[int], list[int], list]:
    """Return the tokens of prompt and answer, and the characters of `answer` that each of its tokens covers."""
    if offsets and not tokenizer.is_fast:
        raise InvalidInputError(f"Expected a fast tokenizer for 'target' (got {type(tokenizer).__name__})")
    how = {"add_special_tokens": False, "verbose": False, "return_offsets_mapping": offsets}
    before = tokenizer(prompt, **how)["input_ids"] if prompt else []
    both, shift = tokenizer(prompt + answer, **how), len(prompt)
    start = len(before)
    if both["input_ids"][:start] != before or len(both["input_ids"]) == start:
        both, shift, start = tokenizer(answer, **how), 0, 0
    spans = [(a - shift, b - shift) for a, b in both["offset_mapping"][start:]] if offsets else []
    return list(before), list(both["input_ids"][start:]), spans


def _target_mask(answer: str, target: Any, spans: list[tuple[int, int]], number: int) -> list[bool]:
    """Return which tokens cover a character of any occurrence of the targets."""
    covered: set[int] = set()
    for word in [target] if isinstance(target, str) else list(target):
        start = answer.find(word) if word else -1
        if start < 0:
            raise InvalidInputError(f"Expected 'target' to be a part of the answer (got {word!r} in row {number})")
        while start >= 0:
            covered.update(range(start, start + len(word)))
            start = answer.find(word, start + 1)
    return [not covered.isdisjoint(range(a, b)) for a, b in spans]


def _is_special(tokenizer: Any, token: int) -> bool:
    """Return whether a token is special: by its name (`all_special_ids`), or as it was added to the vocabulary."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return token in tokenizer.all_special_ids or bool(getattr(added.get(token), "special", False))


def begin_tokens(tokenizer: Any, bos: bool | None, chatted: bool = False) -> list[int]:
    """Return the token that texts begin with, in a list; by default where the tokenizer itself does, never in chats."""
    token = tokenizer.bos_token_id
    if bos is None:
        bos = not chatted and token is not None and tokenizer("a")["input_ids"][:1] == [token]
    if bos and token is None:
        raise InvalidInputError("Expected a tokenizer with a token to begin with for bos=True (got none)")
    return [token] if bos else []


def _refuse(expected: str, rows: list[int]) -> None:
    if rows:
        raise InvalidInputError(f"Expected {expected} (got {len(rows)} others: {named_rows(rows)})")


def named_rows(rows: list[int], most: int = 10) -> str:
    """Return row numbers as text, the first `most` of them."""
    shown = ", ".join(map(str, rows[:most]))
    return f"{'row' if len(rows) == 1 else 'rows'} {shown}{', ...' if len(rows) > most else ''}"
