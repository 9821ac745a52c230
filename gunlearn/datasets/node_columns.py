"""Columns of a nodes' table: which one holds the ids, by its name or by its values, and which one the labels."""

import re
import warnings

import numpy as np

from gunlearn.datasets.column_names import counts_rows, ends_in_id, is_unnamed, kind_of, names_ids
from gunlearn.datasets.text_tables import InputTable, as_numbers, plain
from gunlearn.errors import InvalidInputError

IDS = {"id", "nodeid", "node", "vertex", "vertexid", "nodename"}
LABELS = {"label", "labels", "y", "class", "target"}
_GLANCE = 100  # values that show that a column holds no ids


def node_columns(table: InputTable, kind: str, edge_ids: np.ndarray) -> tuple[int | None, int | None, tuple[int, ...]]:
    """Return the numbers of the columns of ids, of labels, and of pandas' index, which is neither.

    Ids stand under `id` and the like, else in the first column whose values include the ids of all edges: one whose
    name promises ids (`user`, `paper`, `twitter_id`), pandas' index, or any other that could hold nothing else.

    Args:
        table: of nodes.
        kind: `"features"`, `"labels"` or `"nodes"`.
        edge_ids: ids of the edges' ends.

    Raises:
        InvalidInputError: several such columns, none where one is needed, or one that could be ids or a feature.
    """
    if table.header is None:
        return *_without_header(table, kind, edge_ids), ()
    names = [plain(name) for name in table.header]
    numbered = [name for name in table.header if re.fullmatch(r"(label|y|class|target)\d+", plain(name))]
    if len(numbered) > 1 and kind != "labels":
        raise InvalidInputError(
            f"Expected features and one column of labels in {table.source} (got {numbered[:8]}); for several labels "
            "per node, set data.y to a matrix of 0 and 1 and take the task 'node_multilabel'"
        )
    ids = [i for i, name in enumerate(names) if name in IDS]
    labels = [i for i, name in enumerate(names) if name in LABELS and i not in ids]
    if not ids and len(names) > 1:
        found = _column_of_ids(table, kind, [i for i in range(len(names)) if i not in labels], edge_ids)
        ids = [] if found is None else [found]
    aside = tuple(i for i, name in enumerate(table.header) if is_unnamed(name) and i not in ids and len(names) > 1)
    strange = [i for i in aside if not counts_rows(table, i)]
    if strange:
        warnings.warn(f"column {strange[0] + 1} of {table.source} has no name and is not read", stacklevel=4)
    if kind == "labels" and not labels:  # one column beside the ids, of any name
        labels = [i for i in range(len(names)) if i not in ids and i not in aside][:1]
    for columns, what in ((ids, "ids"), (labels, "labels")):
        if len(columns) > 1:
            raise InvalidInputError(
                f"Expected one column of {what} in {table.source} (got {[table.header[i] for i in columns]})"
            )
    if kind == "nodes" and not ids:
        raise InvalidInputError(f"Expected a column 'id' in {table.source} (got {list(table.header)[:8]})")
    if kind == "labels" and not labels:
        raise InvalidInputError(f"Expected a column of labels in {table.source} (got {list(table.header)[:8]})")
    return (ids[0] if ids else None), (labels[0] if labels else None), aside


def _column_of_ids(table: InputTable, kind: str, columns: list[int], edge_ids: np.ndarray) -> int | None:
    """Return the first of some columns that holds ids; see `node_columns`."""
    header = table.header or ()
    known = np.unique(edge_ids)
    texts = known.astype(str)
    held = {i: found for i in columns if (found := _distinct_ids(table.columns[i], edge_ids.dtype.kind)) is not None}
    if columns[:1] == [0] and 0 not in held and edge_ids.dtype.kind == "i":
        _check_first(table)
    whole = [i for i, values in held.items() if np.isin(texts, values).all()]
    index = [i for i in held if is_unnamed(header[i]) or (i == 0 and plain(header[i]) == "index")]
    named = [i for i in held if i not in index and names_ids(header[i])]
    if [i for i in whole if i in named]:
        return next(i for i in whole if i in named)
    others = [i for i in whole if i not in index]
    # Among ids such as 0, 1, 2, ... a rank looks like an id.
    dense = edge_ids.dtype.kind == "i" and 2 * len(known) > int(known[-1]) + 1
    if others and (not dense or (kind == "labels" and len(others) == 1)):
        return others[0]
    if others:
        shown = header[others[0]]
        raise InvalidInputError(
            f"Expected a column 'id' in {table.source} (got {shown!r}, whose values could be the nodes' ids or a "
            "feature); call it 'id' if it holds them, or add a column 'id' if not"
        )
    for i in named:
        if np.isin(held[i], texts).any():
            return i  # ids of some nodes
        if edge_ids.dtype.kind == "i":
            raise InvalidInputError(
                f"Expected ids of the edges' nodes in column {header[i]!r} of {table.source} (got {held[i][0]} "
                "and others that no edge names); name the column otherwise if it is a feature, or leave it out"
            )
    for i in index:
        if i in whole or np.isin(held[i], texts).all() or (not counts_rows(table, i) and np.isin(held[i], texts).any()):
            return i
    return None


def _check_first(table: InputTable) -> None:
    """Refuse a first column that promises ids and holds whole numbers that are none: written as 1.0, or repeated."""
    name, numbers = (table.header or ("",))[0], as_numbers(table.columns[0])
    if numbers is None or not (ends_in_id(name) or kind_of(name) == "person"):
        return
    if np.isfinite(numbers).all() and np.array_equal(numbers, np.round(numbers)):
        got = "repeated ones" if len(np.unique(numbers)) < len(numbers) else f"{table.columns[0][0]!s}, no integer"
        raise InvalidInputError(
            f"Expected an id per row in column {name!r} of {table.source} (got {got}); name the column otherwise if it "
            "is a feature, or leave it out"
        )


def _distinct_ids(column: np.ndarray, kind: str) -> np.ndarray | None:
    """Return a column as texts if it may hold ids: distinct values, whole numbers where the edges' ids are."""
    if column.dtype.kind not in "iuOUS":
        return None
    for part in (column[:_GLANCE], column):
        values = part.astype(str)
        if kind == "i" and not all(value.isdecimal() for value in values.tolist()):
            return None
        if len(np.unique(values)) != len(values):
            return None
    return values


def _without_header(table: InputTable, kind: str, edge_ids: np.ndarray) -> tuple[int | None, int | None]:
    if kind == "nodes":
        raise InvalidInputError(f"Expected a header with a column 'id' in {table.source} (got none in {table.at(0)})")
    if kind == "labels":
        return (0, 1) if len(table.columns) > 1 else (None, 0)
    first = table.columns[0]
    numbers = as_numbers(first)
    if numbers is None:
        return 0, None
    distinct = len(table) > 2 and len(table.columns) > 1 and len(np.unique(numbers)) == len(numbers)
    if distinct and edge_ids.dtype.kind == "i" and np.isin(edge_ids, numbers).all():
        raise InvalidInputError(
            f"Expected a header in {table.source} (got a first column that could be the nodes' ids or a feature); name "
            "the columns in the first line: 'id,...' where it holds ids"
        )
    return None, None
