"""What files and data frames say of nodes: ids, features and labels."""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from gunlearn.datasets.column_names import is_unnamed
from gunlearn.datasets.node_arrays import read_arrays
from gunlearn.datasets.node_columns import IDS, LABELS, node_columns
from gunlearn.datasets.node_ids import read_ids
from gunlearn.datasets.text_tables import TEXT_ENDINGS, InputTable, as_numbers, plain, read_table
from gunlearn.errors import InvalidInputError

#: Columns of a split are no features; `node_split` draws one.
_MASKS = {"trainmask", "valmask", "testmask", "split"}


@dataclass(frozen=True, eq=False)
class NodeTable:
    """What one source says of nodes.

    Args:
        source: the file, for messages.
        rows: number of rows.
        ids: of each row, `[rows]`; `None` where rows are in the order of ids.
        features: `[rows, num_features]`, an array or a scipy matrix, or `None`.
        labels: `[rows]`, numbers or texts, or `None`.
        lists_all: a node may be here that no edge has: the ids stand under a header.
    """

    source: str
    rows: int
    ids: np.ndarray | None = None
    features: Any = None
    labels: np.ndarray | None = None
    lists_all: bool = True


def read_nodes(path: Path, kind: str, edge_ids: np.ndarray) -> NodeTable:
    """Read a file of `"features"`, `"labels"` or `"nodes"` (both); its ending says of which format it is.

    Args:
        path: `.npy`, `.npz` (also of scipy), or delimited text, see `read_table`.
        kind: what the name of the file says that it holds.
        edge_ids: ids of the edges' ends, by which a column of ids without a header is told.

    Raises:
        DatasetNotFoundError: no such file.
        InvalidInputError: wrong content.
    """
    if path.suffix in (".npy", ".npz"):
        return _of_arrays(path, kind)
    if not any(path.name.removesuffix(".gz").endswith(ending) for ending in TEXT_ENDINGS):
        raise InvalidInputError(
            f"Expected {kind} in one of .npy, .npz, {', '.join(TEXT_ENDINGS)} (got {path}, which is not read)"
        )
    return of_table(_with_header(read_table(path)), kind, edge_ids)


def of_table(table: InputTable, kind: str, edge_ids: np.ndarray) -> NodeTable:
    """Return what a table says of nodes; see `read_nodes`."""
    if not len(table):
        raise InvalidInputError(f"Expected at least one row in {table.source} (got none)")
    id_column, label_column, aside = node_columns(table, kind, edge_ids)
    ids = None if id_column is None else read_ids(table, (id_column,))
    if ids is not None and len(np.unique(ids)) != len(ids):
        distinct, counts = np.unique(ids, return_counts=True)
        repeated = np.flatnonzero(ids == distinct[counts > 1][0])[1]
        raise InvalidInputError(
            f"Expected each node once in {table.source} (got another row of a node in {table.at(repeated)})"
        )
    masks = [i for i, name in enumerate(table.header or ()) if plain(name) in _MASKS]
    if masks:
        names = ", ".join(repr(table.header[i]) for i in masks)  # type: ignore[index]
        warnings.warn(f"columns {names} of {table.source} are a split and are not read", stacklevel=3)
    columns = [i for i in range(len(table.columns)) if i not in (id_column, label_column, *aside, *masks)]
    numbers = {i: as_numbers(table.columns[i]) for i in columns}
    texts = [i for i, values in numbers.items() if values is None]
    if texts and kind != "nodes":
        column = table.columns[texts[0]]
        row = next(i for i in range(len(table)) if as_numbers(column[i : i + 1]) is None)
        raise InvalidInputError(
            f"Expected numbers in {table.source} (got {str(column[row])!r} in {table.at(row)}, column {texts[0] + 1}"
            f"{'' if table.header is None else f', {table.header[texts[0]]!r}'})"
        )
    if texts and table.header is not None:
        names = ", ".join(repr(table.header[i]) for i in texts)
        warnings.warn(f"columns {names} of {table.source} hold no numbers and are not read", stacklevel=3)
    kept = [values for values in numbers.values() if values is not None]
    features = np.stack(kept, axis=1) if kept and kind != "labels" else None
    if kind == "labels" and columns:
        raise InvalidInputError(
            f"Expected one column of labels in {table.source} (got {len(columns)} more); for several labels per node, "
            "set data.y to a matrix of 0 and 1 and take the task 'node_multilabel'"
        )
    if features is not None and not np.isfinite(features).all():
        row, at = np.argwhere(~np.isfinite(features))[0]
        column = [i for i in columns if i not in texts][at]
        shown = str(table.columns[column][row])
        raise InvalidInputError(f"Expected finite numbers in {table.at(row)}, column {column + 1} (got {shown!r})")
    labels = None if label_column is None else table.columns[label_column]
    return NodeTable(table.source, len(table), ids, features, labels, table.header is not None)


def _with_header(table: InputTable) -> InputTable:
    first = [str(column[0]) for column in table.columns]
    numeric = [as_numbers(column[:1]) is not None for column in table.columns]
    below = [as_numbers(column[1:]) is not None for column in table.columns]
    known = {plain(name) for name in first} & (IDS | LABELS)
    counted = first[1:] == [str(i) for i in range(len(first) - 1)]
    if len(first) > 1 and is_unnamed(first[0]) and (counted or not all(numeric[1:])):  # above an index
        return table.first_as_header()
    if known or (len(table) > 1 and any(rest and not top for rest, top in zip(below, numeric, strict=True))):
        return table.first_as_header()
    return table


def _of_arrays(path: Path, kind: str) -> NodeTable:
    found = read_arrays(path, kind)
    rows = {name: array.shape[0] for name, array in found.items() if array.ndim}
    if len(set(rows.values())) != 1:
        raise InvalidInputError(f"Expected arrays of as many rows in {path} (got {rows or 'a single number'})")
    ids = found.get("ids")
    if ids is not None:
        size = len(ids)
        columns = (ids.astype(object) if ids.dtype.kind in "US" else ids,)
        ids = read_ids(InputTable(str(path), columns, ("id",), np.arange(size), "row"), (0,))
        if len(np.unique(ids)) != size:
            raise InvalidInputError(f"Expected each node once in the ids of {path} (got some ids several times)")
    return NodeTable(str(path), next(iter(rows.values())), ids, found.get("features"), found.get("labels"))


def aligned(table: NodeTable, rows: np.ndarray, size: int) -> NodeTable:
    """Return the table with a row per node, given the row of each entry; what is missing is NaN or `None`."""
    if np.array_equal(rows, np.arange(size)):
        return table
    features, labels = table.features, table.labels
    if features is not None and not sp.issparse(features):
        whole = np.full((size, features.shape[1]), np.nan)
        whole[rows] = features
        features = whole
    elif features is not None:
        features = features[np.argsort(rows)] if len(rows) == size else None
    if labels is not None:
        spread = np.full(size, None, dtype=object)
        spread[rows] = labels
        labels = spread
    return replace(table, rows=size, ids=None, features=features, labels=labels)
