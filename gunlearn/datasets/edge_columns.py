"""Columns of an edge list as ids and tensors."""

import warnings
from collections.abc import Mapping
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from gunlearn.datasets.edge_first_row import with_edge_header
from gunlearn.datasets.edge_header import ROLES, check_two_kinds, ends
from gunlearn.datasets.node_ids import read_ids
from gunlearn.datasets.text_tables import InputTable, as_numbers, is_missing, plain
from gunlearn.errors import InvalidInputError


def read_edge_table(table: InputTable) -> tuple[np.ndarray, dict[str, Tensor], dict[str, dict[int, str]], InputTable]:
    """Return ids of the ends `[2, E]`, tensors `[E]` of the other columns, names of relations, and the table's rows.

    Warns:
        UserWarning: columns that are not read.
    """
    table = with_edge_header(table)
    source, target = ends(table)
    if not len(table):
        raise InvalidInputError(f"Expected at least one edge in {table.source} (got none)")
    ids = read_ids(table, (source, target)).reshape(2, -1)
    check_two_kinds(table, ids)
    others = {i: name for i, name in enumerate(table.header or ()) if i not in (source, target)}
    columns = {name: table.columns[i] for i, name in others.items()}
    if len(columns) != len(others):
        raise InvalidInputError(
            f"Expected columns of different names in {table.source} (got {list(table.header or ())})"
        )
    tensors, names = edge_tensors(columns, table)
    return ids, tensors, names, table


def edge_tensors(
    columns: Mapping[str, np.ndarray], table: InputTable, ignored: tuple[str, ...] = ()
) -> tuple[dict[str, Tensor], dict[str, dict[int, str]]]:
    """Return `edge_weight` (float32), `edge_time` (int64 or float64, seconds of dates) and `edge_type` (int64), `[E]`.

    Relations that are texts become numbers in alphabetical order, named in the second answer.

    Raises:
        InvalidInputError: two columns for one tensor, or missing and wrong values; the message holds the line.

    Warns:
        UserWarning: columns of other names, which are not read; negative weights.
    """
    tensors: dict[str, Tensor] = {}
    names: dict[str, dict[int, str]] = {}
    unread = []
    for name, values in columns.items():
        role = next((role for role, known in ROLES.items() if plain(name) in known), None)
        if role is None:
            unread += [] if plain(name) in ignored else [name]
            continue
        if role in tensors:
            raise InvalidInputError(f"Expected one column for {role} in {table.source} (got another, {name!r})")
        gone = np.flatnonzero(is_missing(values))
        if len(gone):
            raise InvalidInputError(f"Expected a value in {table.at(gone[0])}, column {name!r} (got none)")
        if role == "edge_type":
            tensors[role], known = as_classes(values)
            if known is not None:
                names["edge_type_names"] = known
            elif int(tensors[role].min()) < 0:
                raise InvalidInputError(
                    f"Expected numbers >= 0 in {table.named(name)} (got {int(tensors[role].min())})"
                )
        else:
            tensors[role] = _weights(values, name, table) if role == "edge_weight" else _times(values, name, table)
    if unread:
        warnings.warn(
            f"{', '.join(map(repr, unread))} of {table.source} not read: those that are read are weight, time and type",
            stacklevel=2,
        )
    return tensors, names


def as_classes(values: np.ndarray) -> tuple[Tensor, dict[int, str] | None]:
    """Return integers `[k]`: the values themselves where they are whole numbers, else their place in the alphabet.

    The second answer names the classes of texts.
    """
    numbers = as_numbers(values)
    if numbers is not None and np.array_equal(numbers, np.round(numbers)) and np.abs(numbers).max(initial=0) < 2**53:
        return torch.from_numpy(numbers.astype(np.int64)), None
    distinct, number = np.unique([str(value) for value in values], return_inverse=True)
    return torch.from_numpy(number.astype(np.int64)), dict(enumerate(distinct.tolist()))


def _weights(values: np.ndarray, name: str, table: InputTable) -> Tensor:
    numbers = as_numbers(values)
    if numbers is None:
        _refuse_text(values, name, table, "a number")
    weight = torch.from_numpy(numbers.astype(np.float32))
    bad = np.flatnonzero(~np.isfinite(weight.numpy()))
    if len(bad):
        raise InvalidInputError(
            f"Expected finite numbers in {table.at(bad[0])}, column {name!r} (got {numbers[bad[0]]})"
        )
    negative = int((weight < 0).sum())
    if negative:
        warnings.warn(
            f"{negative} of {len(weight)} weights in {table.named(name)} are negative: layers that divide by the root "
            "of a node's summed weights (GCN) give NaN on them",
            stacklevel=3,
        )
    return weight


def _times(values: np.ndarray, name: str, table: InputTable) -> Tensor:
    numbers = as_numbers(values)
    if numbers is not None:
        if not np.isfinite(numbers).all():
            bad = np.flatnonzero(~np.isfinite(numbers))[0]
            raise InvalidInputError(f"Expected a finite time in {table.at(bad)}, column {name!r} (got {numbers[bad]})")
        return torch.from_numpy(numbers.astype(np.int64) if np.array_equal(numbers, np.round(numbers)) else numbers)
    try:
        dates = (
            values.astype("datetime64[s]") if values.dtype.kind == "M" else np.array([str(v) for v in values], "M8[s]")
        )
    except ValueError:
        _refuse_text(values, name, table, "a number or a date like 2024-05-31 or 2024-05-31T12:00:00 (without a zone)")
    return torch.from_numpy(dates.astype(np.int64))


def _refuse_text(values: np.ndarray, name: str, table: InputTable, expected: str) -> NoReturn:
    bad = next(i for i in range(len(values)) if as_numbers(values[i : i + 1]) is None)
    raise InvalidInputError(f"Expected {expected} in {table.at(bad)}, column {name!r} (got {str(values[bad])!r})")
