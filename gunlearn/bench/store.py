"""Rows on disk, one line each: a killed grid loses only the row in progress."""

import csv
import io
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gunlearn.core.atomic import make_folder, share, write_file
from gunlearn.errors import CheckpointError

if sys.platform != "win32":
    import fcntl

#: File of the rows in an output folder.
ROWS_FILE = "rows.jsonl"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a formula begins in a spreadsheet
#: File of the command that the last rows in an output folder came from.
COMMAND_FILE = "command.txt"
#: Fields with lists for plots.
PLOT_FIELDS = ("curve", "hist_forget")


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Lock the file `path` against other processes, on other machines too; yield a descriptor to append with.

    The file is made where absent. A killed process releases its lock. On Windows nothing is locked.
    """
    make_folder(path.parent)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    share(path)
    try:
        if sys.platform != "win32":
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


class RowStore:
    """Rows in a file of JSON lines, each with its `key`; processes of several machines can add rows."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def read(self) -> dict[str, dict[str, Any]]:
        """Return the newest row of each key, without lines that do not parse (killed writes)."""
        return _parse(self.path.read_bytes()) if self.path.is_file() else {}

    def add(self, row: dict[str, Any]) -> dict[str, Any]:
        """Append a row and return it; or the one that the file has of its key, without error or with the same one."""
        line = json.dumps(row, allow_nan=False).encode() + b"\n"
        with locked(self.path) as descriptor:
            before = self.path.read_bytes()
            kept = _parse(before).get(row["key"])
            if kept is not None and (not kept.get("error") or kept["error"] == row.get("error")):
                return kept  # done by another worker, or failed in the same way before
            if before and not before.endswith(b"\n"):  # a killed write: start a new line
                line = b"\n" + line
            while line:  # a nearly full disk takes a part, and says so at the next one
                line = line[os.write(descriptor, line) :]
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


def json_plain(value: Any) -> Any:
    """Return `value` for JSON: NaN and infinity become `None`, unknown objects become their text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): json_plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [json_plain(entry) for entry in value]
    return str(value)


def atomic_write(path: str | Path, content: str | bytes) -> Path:
    """Write a whole file or nothing, see `replace_file`."""
    return write_file(path, content.encode() if isinstance(content, str) else content)


def csv_text(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as CSV: nested fields as JSON, `None` as an empty field, without `PLOT_FIELDS`.

    A text that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row if name not in PLOT_FIELDS))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
    writer.writerow({name: _plain(name) for name in columns})
    for row in rows:
        writer.writerow({name: json.dumps(v) if isinstance(v, dict | list) else _plain(v) for name, v in row.items()})
    return buffer.getvalue()


def _plain(value: Any) -> Any:
    """Return a text that begins as a formula does with an apostrophe in front, anything else unchanged."""
    return f"'{value}" if isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA) else value


def read_command(directory: str | Path) -> str:
    """Return the command that a folder's rows came from; empty where they came from Python or an older version."""
    path = Path(directory) / COMMAND_FILE
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def read_results(directory: str | Path) -> list[dict[str, Any]]:
    """Return the rows of the last finished grid in a folder; before one has finished, the rows so far.

    Raises:
        CheckpointError: no rows there, or a `results.json` that is not a list of rows.
    """
    path, unfinished = Path(directory) / "results.json", Path(directory) / ROWS_FILE
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
