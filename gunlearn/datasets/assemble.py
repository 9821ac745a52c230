"""One graph from an edge list and what other files say of its nodes: whose row is whose."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch_geometric.data import Data

from gunlearn.datasets.class_labels import read_classes
from gunlearn.datasets.edge_columns import read_edge_table
from gunlearn.datasets.edge_first_row import may_be_column_numbers
from gunlearn.datasets.node_ids import Numbering, same_kind
from gunlearn.datasets.node_tables import NodeTable, aligned
from gunlearn.datasets.own import as_features, as_labels, build, identity_features
from gunlearn.datasets.raw import as_csr
from gunlearn.datasets.text_tables import InputTable
from gunlearn.errors import InvalidInputError


def assemble(edges: InputTable, read_nodes: Sequence[Any], undirected: bool, sparse: bool = False) -> Data:
    """Return the graph of an edge list, with features and labels where nodes' tables hold them.

    Nodes are in the order of their ids. Where a table has ids, its rows go by them. Where it has none, its rows are the
    ids 0, 1, ... (as many rows as the largest id + 1; or more, for features of nodes without edges), or the distinct
    ids in ascending order (as many rows as there are); others are refused, and so are names without ids beside them.

    Args:
        edges: the edge list.
        read_nodes: functions from the ids of the edges' ends `[2, E]` to a `NodeTable`.
        undirected: every edge stands for both directions.
        sparse: keep features of scipy matrices sparse.

    Raises:
        InvalidInputError: rows that fit no node, nodes without features, or two sources of one thing.

    Warns:
        UserWarning: rows of nodes 0, 1, ... where the ids could count from 1.
    """
    ids, tensors, names, edges = read_edge_table(edges)
    tables = [read(ids) for read in read_nodes]
    if may_be_column_numbers(edges, ids) and not any(_has_node_zero(table, ids) for table in tables):
        warnings.warn(
            f"the first line of {edges.source}, 0,1, is read as an edge, and no other line has a node 0; if it "
            "counts the columns, as pandas writes it above columns without names, put 'source,target' in its place (or "
            "above it, if it is an edge)",
            stacklevel=5,
        )
    numbering, tables = _numbering(ids, tables, edges)
    size = len(numbering.ids)
    features, labels = (_only(tables, what) for what in ("features", "labels"))
    x = identity_features(size) if features is None else _features(features, sparse)
    y, known = (None, None) if labels is None else _labels(labels, size)
    edge_index = torch.from_numpy(numbering.rows(same_kind(ids, numbering.ids)[0]))
    data = build(edge_index, x, y, undirected, tensors)
    for name, value in {"node_id": numbering.node_id, "label_names": known, **names}.items():
        if value is not None:
            data[name] = value
    return data


def _has_node_zero(table: NodeTable, ids: np.ndarray) -> bool:
    """Return whether a table has a row for node 0 of the edges `[2, E]`."""
    return table.rows >= len(np.unique(ids)) if table.ids is None else bool((table.ids.astype(str) == "0").any())


def _only(tables: Sequence[NodeTable], what: str) -> NodeTable | None:
    found = [table for table in tables if getattr(table, what) is not None]
    if len(found) > 1:
        raise InvalidInputError(f"Expected one source of {what} (got {found[0].source} and {found[1].source})")
    return found[0] if found else None


def _numbering(ids: np.ndarray, tables: list[NodeTable], edges: InputTable) -> tuple[Numbering, list[NodeTable]]:
    """Return the ids of all rows, and the tables in their order."""
    with_ids = [table for table in tables if table.ids is not None]
    flat, *theirs = same_kind(ids.ravel(), *(table.ids for table in with_ids if table.ids is not None))
    for table, own in zip(with_ids, theirs, strict=True):
        strange = int((~np.isin(own, flat)).sum())
        if strange == len(own):
            raise InvalidInputError(
                f"Expected ids in {table.source} that {edges.source} names (got none, such as {own[0]!s} where an edge "
                f"has {flat[0]!s})"
            )
        if strange and not table.lists_all and not np.isin(flat, own).all():
            raise InvalidInputError(
                f"Expected a header 'id,...' in {table.source}, or nodes that {edges.source} names (got {strange} "
                "rows of other nodes)"
            )
    distinct = np.unique(np.concatenate([flat, *theirs]))
    others = [table for table in tables if table.ids is None]
    whole, others = _by_count(distinct, others, edges, flat)
    numbering = Numbering(whole)
    placed = []
    for table, own in zip(with_ids, theirs, strict=True):
        rows = numbering.rows(own)
        if table.features is not None and len(rows) < len(whole):
            lacking = np.setdiff1d(whole, own)
            at = np.flatnonzero(np.isin(flat, lacking))
            where = f"; {edges.at(at[0] % len(edges))} names the first" if len(at) else ""
            raise InvalidInputError(
                f"Expected {table.source} to have a row for each node (got none for {len(lacking)} of "
                f"{len(whole)}{where})"
            )
        placed.append(aligned(table, rows, len(whole)))
    return numbering, placed + others


def _by_count(
    distinct: np.ndarray, tables: list[NodeTable], edges: InputTable, flat: np.ndarray
) -> tuple[np.ndarray, list[NodeTable]]:
    """Return the ids of the rows of tables without ids; see `assemble`."""
    if not tables:
        return distinct, []
    if distinct.dtype.kind != "i":
        raise InvalidInputError(
            f"Expected a column 'id' in {tables[0].source} (got none, where the nodes of {edges.source} have names)"
        )
    most = int(distinct[-1]) + 1
    fitting = (len(distinct), most)
    tables = [_without_numbers_as_header(table, fitting) for table in tables]
    rows = {table.rows for table in tables}
    if len(rows) > 1:
        shown = ", ".join(f"{table.rows} in {table.source}" for table in tables)
        raise InvalidInputError(f"Expected as many rows of every file, one per node (got {shown})")
    count, first = rows.pop(), next((table for table in tables if table.features is not None), tables[0])
    if count == most:
        _warn_of_isolated(count, distinct, first, edges)
        return np.arange(most), tables
    if count == len(distinct):
        return distinct, tables
    if count > most and first.features is not None and distinct[0] == 0:
        return np.arange(count), tables
    if count > most and (len(tables) > 1 or 2 * len(distinct) > count):  # most rows have edges, or two files agree
        _warn_of_isolated(count, distinct, first, edges)
        return np.arange(count), tables
    if count > most:
        raise InvalidInputError(
            f"Expected {first.source} to have a row for each node, {_counts(*fitting)} (got {count})"
        )
    position = int(np.flatnonzero(flat >= count)[0]) if count < len(distinct) else int(np.argmax(flat))
    raise InvalidInputError(
        f"Expected {first.source} to have a row for each node, at least {_counts(*fitting)} (got {count}; "
        f"{edges.at(position % len(edges))} names node {flat[position]})"
    )


def _warn_of_isolated(count: int, distinct: np.ndarray, table: NodeTable, edges: InputTable) -> None:
    if distinct[0] > 0:
        warnings.warn(
            f"the {count} rows of {table.source} are taken for nodes 0 to {count - 1}, of which 0 has no edge; where "
            f"the ids of {edges.source} count from 1, name them in a column 'id'",
            stacklevel=7,
        )


def _counts(distinct: int, most: int) -> str:
    return f"{most}" if distinct == most else f"{distinct} as the distinct ids or {most} as the largest id + 1"


def _without_numbers_as_header(table: NodeTable, fitting: tuple[int, ...]) -> NodeTable:
    """Return a table without a first row 0, 1, 2, ..., which pandas writes above columns without names."""
    x = table.features
    if x is None or sp.issparse(x) or not table.source.endswith((".csv", ".tsv", ".txt", ".gz")) or len(x.shape) != 2:
        return table
    if table.rows in fitting or table.rows - 1 not in fitting or not np.array_equal(x[0], np.arange(x.shape[1])):
        return table
    if x.shape[1] < 3 and len(set(fitting)) == 1:  # it might be the first of one row more, a node without edges
        warnings.warn(
            f"the first row of {table.source} is read as a header, since it counts the columns and there is one row "
            "more than nodes; name the columns if it is not",
            stacklevel=4,
        )
    return replace(table, rows=table.rows - 1, features=x[1:])


def _features(table: NodeTable, sparse: bool) -> Tensor:
    if not sp.issparse(table.features):
        return as_features(table.features, table.source)
    matrix = table.features.astype(np.float32)
    as_features(matrix.data.reshape(-1, 1) if matrix.nnz else np.zeros((1, 1)), table.source)  # finite numbers
    return as_csr(matrix) if sparse else torch.from_numpy(matrix.toarray())


def _labels(table: NodeTable, size: int) -> tuple[Tensor, dict[int, str] | None]:
    """Return a class per node, -1 where it is missing, and the names of classes that are texts."""
    labels = np.asarray(table.labels)
    if labels.shape != (size,):
        several = (
            "; for several labels per node, set data.y and take the task 'node_multilabel'" if labels.ndim > 1 else ""
        )
        raise InvalidInputError(
            f"Expected {table.source} of shape [{size}], one per node (got {list(labels.shape)}){several}"
        )
    return (
        (as_labels(labels, size, table.source), None)
        if labels.dtype.kind in "iub"
        else read_classes(labels, table.source)
    )
