"""Shapes of records that people have, and the four that the rest of the package reads."""

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, cast

from gunlearn.errors import InvalidInputError

#: Fields of each shape of record.
SHAPES = (("question", "answer"), ("prompt", "completion"), ("messages",), ("text",))
_SHAPES_SAID = " or ".join(" + ".join(map(repr, shape)) for shape in SHAPES)
_ALSO = "'instruction' + 'output' (alpaca), 'conversations' (ShareGPT)"
#: What ShareGPT calls who speaks.
_SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant"}
_SPEAKERS |= {"bard": "assistant", "bing": "assistant", "model": "assistant", "system": "system"}
_TEXT_BLOCKS = ("text", "input_text", "output_text")
#: Fields that belong to the question, where a shape does not read them.
_CONTEXT = ("context", "system", "history", "input")
#: Fields about a record, and those that other parts of the package read.
_ABOUT = re.compile(
    r"(^|_)(ids?|idx|uu?id|index|source|split|category|topic|task|author|lang|language|url|uri|title|dataset|subset|"
    r"date|time|timestamp|type|kind|tags?|license|meta|metadata|version|level|domain|difficulty|score|role|name|label)$"
    r"|^(target|prompt_hash)$|paraphras|perturb|^_",
    re.I,
)


def canonical(record: Any, where: str) -> Mapping[str, Any]:
    """Return a record in one of `SHAPES`, its other fields unchanged; the same object where it has such a shape.

    Reads capitalised names (`Question`, `Answer`), alpaca (`instruction`, maybe `input`, `system` and `history`, with
    `output` or `response`; Dolly's `context` is its `input`), ShareGPT (`conversations` of `from` and `value`, maybe
    `system`), and messages whose `content` is a list of blocks of text.

    Raises:
        InvalidInputError: none of these shapes, a field of another type, a speaker or a block that is no text, or a
            chat that the assistant does not end.

    Warns:
        UserWarning: a question with a context that is not read.
    """
    if not isinstance(record, Mapping):
        _refuse_shape(type(record).__name__, where)
    shape = _shape(record)
    if shape is None:
        record = _small_names(record)
        shape = _shape(record)
    if shape is None and {"instruction"} <= set(record) and ({"output", "response"} & set(record)):
        return _alpaca(record, where)
    if shape is None and isinstance(record.get("conversations"), Sequence):
        return _chat(record, "conversations", where)
    if shape is None:
        _refuse_shape(sorted(map(str, record)), where)
    if shape == ("messages",):
        return _chat(record, "messages", where)
    for name in shape:
        if not isinstance(record[name], str):
            raise InvalidInputError(f"Expected '{name}' as a string (got {type(record[name]).__name__} in {where})")
    unread = [name for name in _CONTEXT if record.get(name) and shape != ("text",)]
    if unread:
        warnings.warn(
            f"{', '.join(map(repr, unread))} beside {' and '.join(map(repr, shape))} is not read; put it into "
            f"'{shape[0]}', or use 'messages'",
            stacklevel=3,
        )
    return record


def tell_unread(records: Sequence[Mapping[str, Any]]) -> None:
    """Warn once of fields of canonical records that hold texts and are not read, such as `text` beside a question."""
    fields: dict[str, None] = {}
    for record in records:
        read = {*(_shape(record) or ()), *_CONTEXT}
        fields |= dict.fromkeys(name for name, value in record.items() if name not in read and _is_content(name, value))
    if fields:
        warnings.warn(
            f"fields {', '.join(map(repr, fields))} of the records hold texts and are not read: what they say is "
            "neither forgotten nor retained; put it into the question, the answer or 'text', or leave it out",
            stacklevel=3,
        )


def _is_content(name: str, value: Any) -> bool:
    return bool(value) and isinstance(value, (str, list, dict)) and _ABOUT.search(str(name)) is None


def shape_of(record: Any, where: str) -> tuple[str, ...]:
    """Return which of `SHAPES` a record has, as it stands or read by `canonical`, which refuses others."""
    return cast(tuple[str, ...], _shape(canonical(record, where)))


def has_shape(record: Mapping[str, Any]) -> bool:
    """Return whether a record has the fields of a shape that `canonical` reads, whatever their content."""
    small = _small_names(record)
    fields = (*SHAPES, ("instruction", "output"), ("instruction", "response"), ("conversations",))
    return any(all(name in given for name in shape) for given in (record, small) for shape in fields)


def _shape(record: Mapping[str, Any]) -> tuple[str, ...] | None:
    return next((shape for shape in SHAPES if all(name in record for name in shape)), None)


def _small_names(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the record with names of fields in small letters, where no two become one."""
    small = [str(name).strip().lower() for name in record]
    return record if len(set(small)) < len(small) else dict(zip(small, record.values(), strict=True))


def _alpaca(record: Mapping[str, Any], where: str) -> dict[str, Any]:
    answers = [name for name in ("output", "response") if name in record]
    inputs = [name for name in ("input", "context") if record.get(name)]
    if len(answers) > 1 or len(inputs) > 1:
        raise InvalidInputError(f"Expected one answer and one input (got {answers} and {inputs} in {where})")
    for name in ("instruction", *answers, *inputs, "system"):
        if not isinstance(record.get(name) or "", str):
            raise InvalidInputError(f"Expected '{name}' as a string (got {type(record[name]).__name__} in {where})")
    question = "\n\n".join(filter(None, [record["instruction"], *(record[name] for name in inputs)]))
    answer, system, history = record[answers[0]] or "", record.get("system"), record.get("history") or []
    used = {"instruction", "output", "response", "input", "context", "system", "history"}
    rest = {name: value for name, value in record.items() if name not in used}
    if not system and not history:
        return {"question": question, "answer": answer} | rest
    turns = [{"role": "system", "content": system}] if system else []
    for pair in history:
        if not isinstance(pair, Sequence) or len(pair) != 2 or not all(isinstance(said, str) for said in pair):
            raise InvalidInputError(f"Expected 'history' as pairs of strings (got others in {where})")
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns} | rest


def _chat(record: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    messages = record[name]
    listed = isinstance(messages, Sequence) and not isinstance(messages, str)
    if not listed or not all(isinstance(message, Mapping) for message in messages):
        raise InvalidInputError(f"Expected '{name}' of 'role' and 'content' strings (got others in {where})")
    turns = [_turn(message, f"'{name}' of {where}") for message in messages]
    system = record.get("system") if name == "conversations" else None
    if isinstance(system, str) and system and not (turns and turns[0]["role"] == "system"):
        turns = [{"role": "system", "content": system}, *turns]
    if not turns or turns[-1]["role"] != "assistant":
        last = turns[-1]["role"] if turns else "nothing"
        raise InvalidInputError(f"Expected '{name}' that end with the assistant's answer (got {last} in {where})")
    if name == "messages" and all(turn is message for turn, message in zip(turns, messages, strict=True)):
        return record
    rest = {key: value for key, value in record.items() if key not in (name, *(["system"] if system else []))}
    return {"messages": turns} | rest


def _turn(message: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Return one turn as `role` and `content`, the same object where it is that already."""
    role, content = message.get("role", message.get("from")), message.get("content", message.get("value"))
    if message.get("tool_calls") or message.get("function_call"):
        raise InvalidInputError(f"Expected turns of text (got a call of a tool in {where})")
    if isinstance(content, Sequence) and not isinstance(content, str):
        content = "".join(_block(block, where) for block in content)
    if not isinstance(role, str) or not isinstance(content, str):
        raise InvalidInputError(
            f"Expected 'role' and 'content' (or 'from' and 'value') strings in {where} (got others)"
        )
    if "role" in message and message.get("content") is content:
        return message
    if "role" not in message:
        if role.lower() not in _SPEAKERS:
            raise InvalidInputError(f"Expected 'from' to be one of {sorted(_SPEAKERS)} (got {role!r} in {where})")
        role = _SPEAKERS[role.lower()]
    return {"role": role, "content": content}


def _block(block: Any, where: str) -> str:
    if isinstance(block, str):
        return block
    kind = block.get("type", "text") if isinstance(block, Mapping) else type(block).__name__
    if kind not in _TEXT_BLOCKS or not isinstance(block.get("text"), str):
        raise InvalidInputError(f"Expected blocks of text as 'content' (got {kind!r} in {where})")
    return block["text"]


def _refuse_shape(got: Any, where: str) -> NoReturn:
    raise InvalidInputError(f"Expected an object with {_SHAPES_SAID} or {_ALSO} (got {got} in {where})")
