"""What an evaluation of one language model leaves behind: figures, and what later evaluations compare with."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from gunlearn.core.atomic import checksum, write_files
from gunlearn.errors import InvalidInputError
from gunlearn.llm.metrics.figure_legends import legends_of

SCHEMA = "gunlearn.llm-eval/1"
#: Floats that JSON has no number for.
_WORDS = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}
#: Entries of a log that hold floats.
_NUMBERS = ("rows", "figures", "compared", "curves")
_OBJECTS = ("model", "tokenizer", "settings", "left_out", "notes", "references", "texts", *_NUMBERS)


@dataclass(eq=False)
class EvaluationLog:
    """The log of one model, a JSON file beside which its answers lie; see docs/llm_eval.md for the schema.

    Attributes:
        model: its `name`, digest of `weights`, size of its `vocabulary`, `kind` and number of `parameters`.
        tokenizer: its `digest` and `size`.
        settings: what the figures depend on.
        rows: by set, an entry per row: `index`, `digest` and its values.
        figures: by name, as in `evaluate_language_models`.
        left_out: why a figure is not there, by name.
        notes: what was measured otherwise than asked for, by name of a set.
        compared: by digest of a reference's weights and by set, the terms of the alignment with it, see `Comparison`.
        references: `file` (relative to the log) and `weights` of the logs that this one is compared with.
        original: the same of the log of the model before unlearning.
        curves: figures by step of the relearning attack.
        texts: generated answers by set, where they were asked for.
        answers: checksum of the file of answers; empty without one.
        complete: whether the evaluation came to its end.
        path: where the log is.
    """

    model: dict[str, Any]
    tokenizer: dict[str, Any]
    settings: dict[str, Any]
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    compared: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    references: list[dict[str, str]] = field(default_factory=list)
    original: dict[str, str] | None = None
    curves: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    answers: str = ""
    complete: bool = False
    path: Path | None = None

    @property
    def answers_path(self) -> Path | None:
        """The file of answers, beside the log."""
        return None if self.path is None else self.path.with_suffix(".answers")

    def digests(self, part: str) -> list[str]:
        """Return the digests of a set's rows."""
        return [row["digest"] for row in self.rows.get(part, [])]

    def save(self, path: str | PathLike[str] | None = None, answers: bytes | None = None) -> Path:
        """Write the log, and its answers where they are given; both files or none."""
        self.path = Path(path) if path is not None else self.path
        if self.path is None:
            raise InvalidInputError("Expected a path to save the log to (got none)")
        files = {}
        if answers is not None:
            self.answers = checksum(answers)
            files[self.path.with_suffix(".answers")] = answers
        content = {"schema": SCHEMA} | {name: value for name, value in asdict(self).items() if name != "path"}
        text = json.dumps(_worded(content), indent=1, allow_nan=False) + "\n"
        write_files(files | {self.path: text.encode()})
        return self.path

    @classmethod
    def load(cls, path: str | PathLike[str]) -> EvaluationLog:
        """Read a log, complete or not.

        Raises:
            InvalidInputError: no such file, no JSON, or JSON of another schema; the message names the file.
        """
        path = Path(path)
        content = read_json(path)
        schema = content.get("schema")
        if schema != SCHEMA:
            raise InvalidInputError(f'Expected a log with "schema": "{SCHEMA}" in {path} (got {schema!r})')
        names = set(cls.__dataclass_fields__) - {"path"}
        if not {"model", "tokenizer", "settings"} <= content.keys() or content.keys() - names - {"schema"}:
            raise InvalidInputError(f"Expected the entries of {SCHEMA} in {path} (got {sorted(content)})")
        read = {name: value for name, value in content.items() if name in names}
        kinds = {name: list if name == "references" else dict for name in _OBJECTS}
        wrong = [name for name, kind in kinds.items() if not isinstance(read.get(name, kind()), kind)]
        if wrong:
            got = type(read[wrong[0]]).__name__
            raise InvalidInputError(f"Expected {kinds[wrong[0]].__name__} as {wrong[0]!r} in {path} (got {got})")
        return cls(**read | {name: _numbers(read.get(name, {})) for name in _NUMBERS}, path=path)

    def __rich__(self) -> Group:
        """Return the table of figures, with a line below it on each group of figures, note, and figure left out."""
        lines = [*legends_of(self.figures), *(f"{name}: {note}" for name, note in self.notes.items())]
        lines += [f"{name} is left out: {why}" for name, why in self.left_out.items()]
        table = Table("")
        table.add_column(Text(self.model["name"]))
        for name, value in self.figures.items():
            table.add_row(name, value if isinstance(value, str) else f"{value:.4g}")
        return Group(table, *map(Text, lines))


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; refuse other files by name."""
    if not path.is_file():
        raise InvalidInputError(f"Expected a log in JSON (got {path}, which is no file)")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidInputError(f"Expected JSON in {path} (got {error}); it may be the rest of a broken run") from None
    if not isinstance(content, dict):
        raise InvalidInputError(f"Expected a JSON object in {path} (got {type(content).__name__})")
    return content


def _worded(value: Any) -> Any:
    """Return plain JSON values: floats without a number in JSON become the words that JavaScript has for them."""
    if isinstance(value, float) and not math.isfinite(value):
        return next(word for word, number in _WORDS.items() if number == value or (math.isnan(value) and word == "NaN"))
    if isinstance(value, Mapping):
        return {str(name): _worded(entry) for name, entry in value.items()}
    return [_worded(entry) for entry in value] if isinstance(value, list | tuple) else value


def _numbers(value: Any) -> Any:
    if isinstance(value, str):
        return _WORDS.get(value, value)
    if isinstance(value, dict):
        return {name: _numbers(entry) for name, entry in value.items()}
    return [_numbers(entry) for entry in value] if isinstance(value, list) else value
