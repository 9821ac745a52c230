"""Tables of text: delimited files of any common separator, with the line of each row for messages."""

import csv
import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gunlearn.datasets.decimal_commas import with_points
from gunlearn.errors import DatasetNotFoundError, InvalidInputError

#: Endings of files that are read as tables of text, maybe with `.gz` behind.
TEXT_ENDINGS = (".csv", ".tsv", ".txt", ".edgelist", ".edges")
_MISSING = {"", "nan", "none", "null", "<na>", "nat", "n/a", "#n/a"}


@dataclass(frozen=True, eq=False)
class InputTable:
    """Columns of equal length.

    Args:
        source: the file, for messages.
        columns: arrays `[num_rows]`: texts of a file, any values of a data frame.
        header: names of the columns, `None` where the file has none.
        lines: the line of each row in the file.
        unit: the word for it, in messages.
    """

    source: str
    columns: tuple[np.ndarray, ...]
    header: tuple[str, ...] | None
    lines: np.ndarray
    unit: str = "line"

    def __len__(self) -> int:
        return len(self.lines)

    def at(self, row: int) -> str:
        """Return where a row stands, for messages."""
        return f"{self.source}, {self.unit} {self.lines[row]}"

    def first_as_header(self) -> "InputTable":
        """Return the table with its first row as the header."""
        names = tuple(str(column[0]) for column in self.columns)
        return replace(self, header=names, columns=tuple(c[1:] for c in self.columns), lines=self.lines[1:])

    def named(self, name: str) -> str:
        """Return a column for messages."""
        return f"column {name!r} of {self.source}"


def plain(name: str) -> str:
    """Return the name of a column in lower case, without blanks and other separators."""
    return re.sub(r"[\s_\-.:]", "", name.lower())


def is_missing(values: np.ndarray) -> np.ndarray:
    """Return which values are empty or say that there is none, boolean `[num_rows]`."""
    if values.dtype.kind in "iub":
        return np.zeros(len(values), dtype=bool)
    if values.dtype.kind in "fmM":
        return np.isnan(values) if values.dtype.kind == "f" else np.isnat(values)
    # By length first: the columns of a large file have millions of values.
    return np.array(
        [v is None or v != v or (len(text := str(v)) < 5 and text.strip().lower() in _MISSING) for v in values],
        dtype=bool,
    )


def as_numbers(values: np.ndarray) -> np.ndarray | None:
    """Return a column as float64, missing values as NaN; `None` where another value is no number."""
    if values.dtype.kind in "fiub":
        return values.astype(np.float64)
    if values.dtype.kind != "O":
        return None
    try:
        numbers = values.astype(np.float64)  # None becomes NaN
    except (TypeError, ValueError):
        there = ~is_missing(values)
        numbers = np.full(len(values), np.nan)
        try:
            numbers[there] = values[there].astype(np.float64)
        except (TypeError, ValueError):
            return None
    return None if any("_" in v for v in values if isinstance(v, str)) else numbers  # Python reads 1_0 as 10


def read_table(path: Path, least: int = 1, noun: str = "row") -> InputTable:
    """Read a delimited file, without deciding whether its first row is a header.

    Separators are tabs, semicolons, commas or blanks, whichever the first line has, in this order; fields may be
    quoted. Blank lines and lines that begin with `#` or `%` are left out, and a separator behind the last field.
    Between tabs and semicolons, numbers may have a decimal comma.

    Args:
        path: a UTF-8 file, maybe gzipped.
        least: columns that a table must have.
        noun: what a row is, in messages.

    Raises:
        DatasetNotFoundError: no such file.
        InvalidInputError: no text, no row, or rows of unequal length; the message holds the line.
    """
    lines = _lines(path)
    separator = next((_separator(line) for _, line in lines), ",")
    rows, numbers = [], []
    width = 0
    for number, fields in _rows(path, lines, separator):
        width = width or len(fields)
        if len(fields) != width and separator == "\t" and len(" ".join(fields).split()) == width:
            fields = " ".join(fields).split()  # tabs in one line, blanks in another
        if len(fields) == width + 1 and not fields[-1]:
            fields = fields[:-1]
        if len(fields) != width:
            raise InvalidInputError(f"Expected {width} columns in {path}, line {number} (got {len(fields)})")
        rows.append(fields)
        numbers.append(number)
    while rows and not any(rows[-1]):  # rows of separators alone, as spreadsheets leave them at the end
        rows.pop(), numbers.pop()
    if not rows:
        raise InvalidInputError(f"Expected at least one {noun} in {path} (got none)")
    columns = [np.array(column, dtype=object) for column in zip(*rows, strict=True)]
    while len(columns) > least and not any(columns[-1]):
        columns.pop()
    if separator in "\t;":
        columns = with_points(columns, str(path))
    return InputTable(str(path), tuple(columns), None, np.array(numbers))


def _lines(path: Path) -> list[tuple[int, str]]:
    """Return the lines that hold data, with their numbers."""
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    except FileNotFoundError:
        raise DatasetNotFoundError(f"Expected a text file at {path.absolute()} (got no such file)") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InvalidInputError(f"Expected {path} to be a readable text file in UTF-8 (got {error})") from error
    if "\0" in text:
        raise InvalidInputError(f"Expected {path} to be a readable text file in UTF-8 (got a zero byte)")
    if text.startswith("%%MatrixMarket"):
        raise InvalidInputError(f"Expected rows of ids in {path} (got a matrix; read it with scipy.io.mmread)")
    if re.match(r"\S+\s+\S+\s+\{.*\}\s*$", text, re.MULTILINE):
        raise InvalidInputError(
            f"Expected columns in {path} (got networkx's own edge list; read it with networkx.read_edgelist and load "
            "the graph)"
        )
    every = enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1)
    found: list[tuple[int, str]] = []
    for number, line in every:
        bare = line.strip()
        if not bare:
            continue
        if bare[0] not in "#%":
            found.append((number, line.strip(" ")))
        elif found and len(bare) > 1 and not bare[1].isspace() and bare[1] not in "#%":
            raise InvalidInputError(
                f"Expected a blank behind the mark of a comment in {path}, line {number} (got a field that begins with "
                f"'{bare[0]}'?); quote such fields"
            )
    return found


def _separator(line: str) -> str:
    unquoted = re.sub(r'"[^"]*"', "", line)
    return next((mark for mark in "\t;," if mark in unquoted.strip(" ")), " ")


def _rows(path: Path, lines: list[tuple[int, str]], separator: str) -> Iterator[tuple[int, list[str]]]:
    current = 0

    def texts() -> Iterator[str]:
        nonlocal current
        for number, line in lines:
            current = number
            yield (line.replace("\t", " ").strip() if separator == " " else line) + "\n"

    reader = csv.reader(texts(), delimiter=separator, skipinitialspace=True, strict=False)
    read = 0
    try:
        for fields in reader:
            if reader.line_num != read + 1:
                raise InvalidInputError(
                    f"Expected quoted fields to end in their line (got {path}, before line {current})"
                )
            if not read and separator in ",;" and len(fields[0].split()) > 1 and _numeric(fields[0]):
                raise InvalidInputError(
                    f"Expected one kind of separator (got {path}, line {current}: '{separator}' and blanks)"
                )
            read += 1
            yield current, [field.strip() for field in fields]
    except csv.Error as error:
        raise InvalidInputError(f"Expected delimited text in {path}, line {current} (got {error})") from error


def _numeric(field: str) -> bool:
    return all(re.fullmatch(r"[+-]?[0-9.]+(e[+-]?[0-9]+)?", part) for part in field.split())
