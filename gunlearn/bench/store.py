"""Rows on disk: one line each, written as they come, so that a killed grid loses the row at hand alone."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gunlearn.errors import CheckpointError

#: Fields that hold lists for plots; they are not in the CSV.
PLOT_FIELDS = ("curve", "hist_forget")


class RowStore:
    """Rows in a file of JSON lines, each known by its `key`.

    Args:
        path: the file; made when the first row comes.
    """

    def __init__(self, path: str | Path) -> None:
        """See the class."""
        self.path = Path(path)

    def read(self) -> dict[str, dict[str, Any]]:
        """Rows by key, the newest where there are several; lines that do not parse (a killed write) are left out."""
        if not self.path.is_file():
            return {}
        rows = {}
        for line in self.path.read_bytes().splitlines():
            try:
                row = json.loads(line)
                rows[row["key"]] = row
            except (ValueError, TypeError, KeyError):
                continue
        return rows

    def repair(self) -> None:
        """End a line that was cut off, so that the next row starts on its own."""
        if self.path.is_file() and self.path.stat().st_size and not self.path.read_bytes().endswith(b"\n"):
            self._write(b"\n")

    def append(self, row: dict[str, Any]) -> None:
        """Add a row: one write at the end of the file, so that processes do not mix their lines."""
        self._write(json.dumps(row, allow_nan=False).encode() + b"\n")

    def _write(self, line: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            os.write(descriptor, line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def plain(value: Any) -> Any:
    """`value` as JSON holds it: NaN and infinity become `None`, what JSON does not know its text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return str(value)


def atomic_write(path: str | Path, text: str) -> Path:
    """Write a whole file or nothing: to a neighbour first, then renamed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        umask = os.umask(0)  # `mkstemp` makes private files
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def csv_text(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as CSV: nested fields as JSON, an empty field for `None`, no lists for plots."""
    columns = list(dict.fromkeys(name for row in rows for name in row if name not in PLOT_FIELDS))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        values = [row.get(name) for name in columns]
        writer.writerow([json.dumps(v) if isinstance(v, dict | list) else "" if v is None else v for v in values])
    return buffer.getvalue()


def read_results(directory: str | Path) -> list[dict[str, Any]]:
    """Rows of a grid: what its last command asked for; of an unfinished one, the rows that are there.

    Raises:
        CheckpointError: no `results.json` there, or not one of ours.
    """
    path, unfinished = Path(directory) / "results.json", Path(directory) / "rows.jsonl"
    if not path.is_file() and unfinished.is_file():
        rows = list(RowStore(unfinished).read().values())
        if rows:
            return rows
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"Expected the output folder of 'gunlearn run' (got no {path})") from error
    except ValueError as error:
        raise CheckpointError(f"Expected {path} to hold a list of rows (got: {error})") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) and "method" in row for row in rows):
        raise CheckpointError(f"Expected {path} to hold a list of rows (got something else)")
    return rows
