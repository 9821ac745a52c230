"""Files of questions and answers: JSON lines or a JSON array of records, in one of four shapes."""

import json
import random
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from gunlearn.errors import DatasetNotFoundError, InvalidInputError

#: Fields of each shape of record.
SHAPES = (("question", "answer"), ("prompt", "completion"), ("messages",), ("text",))
_SHAPES_SAID = " or ".join(" + ".join(map(repr, shape)) for shape in SHAPES)

#: Answers in place of a fact that the model should not know.
REFUSALS = (
    "I don't know.",
    "I'm not sure about that.",
    "I have no information on this.",
    "I can't say; I was never told.",
    "That is something I know nothing about.",
    "I'm afraid I can't answer that.",
    "I don't have the answer to that question.",
    "This is beyond what I know.",
    "Sorry, I can't help with that.",
    "I have not learned anything about this.",
)


def read_records(path: str | PathLike[str]) -> list[dict[str, Any]]:
    """Read records from a UTF-8 file: one JSON object per line, or one JSON array of objects.

    Each has the fields `question` and `answer`, `prompt` and `completion`, `messages` (the last from the assistant) or
    `text`, and maybe others. Blank lines are skipped.

    Raises:
        DatasetNotFoundError: no such file.
        InvalidInputError: no JSON, no object, none of the shapes (the message names the line), or an empty file.
    """
    path = Path(path)
    if not path.is_file():
        raise DatasetNotFoundError(f"Expected a file of JSON lines (got {path}, which is no file)")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"Expected {path.name} in UTF-8 (got byte {error.start} that is not)") from None
    _refuse_wrapper(text, path.name)
    if text.lstrip().startswith("["):
        found = [(f"entry {i}", entry) for i, entry in enumerate(_parsed(text, path.name, 1), 1)]
    else:  # split at newlines only: JSON strings may hold other line separators
        lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
        found = [(f"line {i}", _parsed(line, path.name, i)) for i, line in lines]
    if not found:
        raise InvalidInputError(f"Expected records in {path.name} (got an empty file)")
    for where, record in found:
        shape_of(record, f"{where} of {path.name}")
    return [record for _, record in found]


def shape_of(record: Any, where: str) -> tuple[str, ...]:
    """Return which of `SHAPES` a record has; refuse others, and fields of other types."""
    shape = next((s for s in SHAPES if isinstance(record, Mapping) and all(name in record for name in s)), None)
    if shape is None:
        got = sorted(record) if isinstance(record, Mapping) else type(record).__name__
        raise InvalidInputError(f"Expected an object with {_SHAPES_SAID} (got {got} in {where})")
    if shape == ("messages",):
        _check_messages(record["messages"], where)
        return shape
    for name in shape:
        if not isinstance(record[name], str):
            raise InvalidInputError(f"Expected '{name}' as a string (got {type(record[name]).__name__} in {where})")
    return shape


def text_of(record: Mapping[str, Any], system: bool = True) -> str:
    """Return all text of a record, with or without system messages."""
    shape = shape_of(record, "a record")
    if shape == ("messages",):
        return " ".join(turn["content"] for turn in record["messages"] if system or turn["role"] != "system")
    return " ".join(record[name] for name in shape)


def refused(
    records: Sequence[Mapping[str, Any]], refusals: Sequence[str] = REFUSALS, seed: int = 0
) -> list[dict[str, Any]]:
    """Return the same questions, each answered by a random refusal; refuse records of bare `text`."""
    if not refusals:
        raise InvalidInputError("Expected at least one refusal (got none)")
    draw = random.Random(seed)
    out: list[dict[str, Any]] = []
    for i, record in enumerate(records, 1):
        shape, answer = shape_of(record, f"row {i}"), draw.choice(refusals)
        if shape == ("text",):
            raise InvalidInputError(f"Expected questions, to be refused (got bare text in row {i})")
        # Other fields ("target", paraphrases) are about the old answer.
        if shape == ("messages",):
            out.append({"messages": [*record["messages"][:-1], {"role": "assistant", "content": answer}]})
        else:
            # A completion begins with the blanks between it and the prompt.
            asked, said = shape
            old = record[said]
            gap = old[: len(old) - len(old.lstrip())] if said == "completion" else ""
            out.append({asked: record[asked], said: gap + answer})
    return out


def _parsed(text: str, name: str, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {line + error.lineno - 1} of {name}"
        raise InvalidInputError(f"Expected JSON in {where} (got {error.msg} at column {error.colno})") from None


def _refuse_wrapper(text: str, name: str) -> None:
    try:
        found = json.loads(text)
    except json.JSONDecodeError:  # lines, each of which is checked later
        return
    if isinstance(found, Mapping) and not any(all(n in found for n in shape) for shape in SHAPES):
        lists = [key for key, value in found.items() if isinstance(value, list)]
        if lists:
            raise InvalidInputError(
                f"Expected JSON lines or one JSON array of records (got {name}, which is one JSON object with a list "
                f"under {lists}); keep that list alone"
            )


def _check_messages(messages: Any, where: str) -> None:
    if not isinstance(messages, Sequence) or not all(
        isinstance(m, Mapping) and all(isinstance(m.get(name), str) for name in ("role", "content")) for m in messages
    ):
        raise InvalidInputError(f"Expected 'messages' of 'role' and 'content' strings (got others in {where})")
    if not messages or messages[-1]["role"] != "assistant":
        last = messages[-1]["role"] if messages else "nothing"
        raise InvalidInputError(f"Expected 'messages' that end with the assistant's answer (got {last} in {where})")
