"""Rows on disk: one line each, written as they come, so that a killed grid loses the row at hand alone."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gunlearn.errors import CheckpointError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

#: Fields that hold lists for plots; they are not in the CSV.
PLOT_FIELDS = ("curve", "hist_forget")


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Have the file `path` (made where absent) for oneself, among the processes of all machines that see it.

    Yields a descriptor to append with. A process that is killed lets go. Where the system has no such locks (Windows),
    nobody waits.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


class RowStore:
    """Rows in a file of JSON lines, each known by its `key`; processes of several machines may add to it.

    Args:
        path: the file; made when the first row comes.
    """

    def __init__(self, path: str | Path) -> None:
        """See the class."""
        self.path = Path(path)

    def read(self) -> dict[str, dict[str, Any]]:
        """Rows by key, the newest where there are several; lines that do not parse (a killed write) are left out."""
        return _parse(self.path.read_bytes()) if self.path.is_file() else {}

    def add(self, row: dict[str, Any]) -> dict[str, Any]:
        """Append a row, unless there is one of its key without an error.

        So a cell that was given to a second worker, because the first seemed dead, leaves each row once.

        Returns:
            The row that stands in the file.
        """
        line = json.dumps(row, allow_nan=False).encode() + b"\n"
        with locked(self.path) as descriptor:
            before = self.path.read_bytes()
            kept = _parse(before).get(row["key"])
            if kept is not None and not kept.get("error"):
                return kept
            if before and not before.endswith(b"\n"):  # a killed write: the new row starts on its own line
                line = b"\n" + line
            os.write(descriptor, line)
            os.fsync(descriptor)
        return row


def _parse(lines: bytes) -> dict[str, dict[str, Any]]:
    rows = {}
    for line in lines.splitlines():
        try:
            row = json.loads(line)
            rows[row["key"]] = row
        except (ValueError, TypeError, KeyError):
            continue
    return rows


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


def atomic_write(path: str | Path, content: str | bytes) -> Path:
    """Write a whole file or nothing: to a neighbour first, then renamed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
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
