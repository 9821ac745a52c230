"""Files of questions and answers: JSON lines or a JSON array of records."""

import json
import random
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from gunlearn.core.checks import check_choice
from gunlearn.errors import DatasetNotFoundError, InvalidInputError
from gunlearn.llm.data.record_shapes import canonical, has_shape, shape_of

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

#: Files of tables that people bring.
_OTHER_FILES = (".csv", ".tsv", ".parquet", ".xlsx", ".arrow")


def read_records(path: str | PathLike[str]) -> list[dict[str, Any]]:
    """Read records from a UTF-8 file: one JSON object per line, or one JSON array of objects.

    Each has the fields `question` and `answer`, `prompt` and `completion`, `messages` (the last from the assistant) or
    `text`, and maybe others; shapes that `canonical` knows (alpaca, ShareGPT, capitalised names) become one of these.
    Blank lines are skipped.

    Raises:
        DatasetNotFoundError: no such file.
        InvalidInputError: no JSON, no object, none of the shapes (the message names the line), or an empty file.
    """
    return [dict(canonical(record, where)) for where, record in read_objects(Path(path))]


def read_objects(path: Path) -> list[tuple[str, Any]]:
    """Return the entries of a UTF-8 file, one JSON object per line or one JSON array, each with where it stands."""
    if not path.is_file():
        raise DatasetNotFoundError(f"Expected a file of JSON lines (got {path}, which is no file)")
    if path.suffix.lower() in _OTHER_FILES:
        raise InvalidInputError(
            f"Expected JSON lines or a JSON array of records (got {path.name}: a {path.suffix} file; of a data frame, "
            'to_json(path, orient="records", lines=True) writes them)'
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"Expected {path.name} in UTF-8 (got byte {error.start} that is not)") from None
    _refuse_wrapper(text, path.name)
    if text.lstrip().startswith("["):
        found = [(f"entry {i} of {path.name}", entry) for i, entry in enumerate(_parsed(text, path.name, 1), 1)]
    else:  # split at newlines only: JSON strings may hold other line separators
        lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
        found = [(f"line {i} of {path.name}", _parsed(line, path.name, i)) for i, line in lines]
    if not found:
        raise InvalidInputError(f"Expected records in {path.name} (got an empty file)")
    return found


def text_of(record: Mapping[str, Any], system: bool = True) -> str:
    """Return all text of a record, with or without system messages."""
    record = canonical(record, "a record")
    shape = shape_of(record, "a record")
    if shape == ("messages",):
        return " ".join(turn["content"] for turn in record["messages"] if system or turn["role"] != "system")
    return " ".join(record[name] for name in shape)


def refused(
    records: Sequence[Mapping[str, Any]], refusals: Sequence[str] = REFUSALS, seed: int = 0, turns: str = "all"
) -> list[dict[str, Any]]:
    """Return the same questions, each answered by a random refusal; refuse records of bare `text`.

    In a chat the refusal takes the place of `"all"` answers of the assistant, or of the `"last"` one; see `encode`.
    """
    check_choice("turns", turns, ("all", "last"))
    if not refusals:
        raise InvalidInputError("Expected at least one refusal (got none)")
    draw = random.Random(seed)
    out: list[dict[str, Any]] = []
    for i, record in enumerate(records, 1):
        record = canonical(record, f"row {i}")
        shape, answer = shape_of(record, f"row {i}"), draw.choice(refusals)
        if shape == ("text",):
            raise InvalidInputError(f"Expected questions, to be refused (got bare text in row {i})")
        # Other fields ("target", paraphrases) are about the old answer.
        if shape == ("messages",):
            chat, refusal = record["messages"], {"role": "assistant", "content": answer}
            first = len(chat) - 1 if turns == "last" else 0
            replaced = [i >= first and turn["role"] == "assistant" for i, turn in enumerate(chat)]
            turned = [dict(refusal) if new else turn for new, turn in zip(replaced, chat, strict=True)]
            out.append({"messages": turned})
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
    if isinstance(found, Mapping) and not has_shape(found):
        lists = [k for k, v in found.items() if isinstance(v, list) and (not v or isinstance(v[0], Mapping))]
        if lists:
            raise InvalidInputError(
                f"Expected JSON lines or one JSON array of records (got {name}, which is one JSON object with a list "
                f"under {lists}); keep that list alone"
            )
