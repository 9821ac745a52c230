"""Graphs in data frames of pandas, which need not be installed."""

from functools import partial
from typing import Any

import numpy as np
from torch_geometric.data import Data

from gunlearn.datasets.assemble import assemble
from gunlearn.datasets.node_tables import of_table
from gunlearn.datasets.text_tables import InputTable
from gunlearn.errors import InvalidInputError, InvalidTypeError


def is_frame(value: Any) -> bool:
    """Return whether a value is a data frame of pandas, without importing pandas."""
    kinds = type(value).__mro__
    return any(kind.__module__.split(".")[0] == "pandas" and kind.__name__ == "DataFrame" for kind in kinds)


def from_pandas(edges: Any, nodes: Any = None, undirected: bool = True) -> Data:
    """Turn a data frame of edges, and maybe one of nodes, into a graph, as `from_files` does for files.

    Args:
        edges: one edge per row: columns `source` and `target` (else the first two), which hold integers or names, and
            maybe `weight`, `time` and `type`.
        nodes: one node per row: a column `id` (or an index of that name), features, and maybe `label`.
        undirected: every row stands for both directions.

    Raises:
        InvalidTypeError: no data frame.
        InvalidInputError: wrong content; the message holds the row, counted from 0.

    Warns:
        UserWarning: columns that are not read.
    """
    readers = [] if nodes is None else [partial(of_table, _table(nodes, "the nodes' data frame"), "nodes")]
    return assemble(_table(edges, "the edges' data frame"), readers, undirected)


def _table(frame: Any, source: str) -> InputTable:
    if not is_frame(frame):
        raise InvalidTypeError(f"Expected a pandas data frame (got {type(frame).__name__})")
    if frame.shape[0] == frame.shape[1] > 2 and list(map(str, frame.index)) == list(map(str, frame.columns)):
        raise InvalidInputError(f"Expected a row per edge or node in {source} (got an adjacency matrix, by its names)")
    named = [name for name in frame.index.names if name is not None]
    frame = frame.reset_index(level=named) if named else frame
    columns = tuple(_values(frame.iloc[:, i]) for i in range(frame.shape[1]))
    return InputTable(source, columns, tuple(map(str, frame.columns)), np.arange(len(frame)), "row")


def _values(series: Any) -> np.ndarray:
    """Return numbers and dates as they are, everything else as objects with None where a value is missing."""
    values = series.to_numpy()
    if values.dtype.kind in "fiuM":
        return values
    return series.astype(object).where(series.notna(), None).to_numpy()
