"""The first row of an edge list: a header, an edge, or numbers of columns, nodes or edges."""

import re

import numpy as np

from gunlearn.datasets.column_names import ends_in_id, is_unnamed
from gunlearn.datasets.edge_header import SOURCE_NAMES, TARGET_NAMES, ends, without_row_numbers
from gunlearn.datasets.text_tables import InputTable, as_numbers, is_missing, plain
from gunlearn.errors import InvalidInputError


def with_edge_header(table: InputTable) -> InputTable:
    """Return an edge list with its header known, if it has one, and without columns that only number the rows.

    A first row is a header if it names the ends, has a text or nothing above a column of numbers, or the numbers 0, 1
    of the columns above names.

    Raises:
        InvalidInputError: a first row that could be a header or an edge: two names, or the numbers of two columns, that
            occur nowhere else; or numbers of nodes and edges above the edges.
    """
    return without_row_numbers(table if table.header is not None else _found_header(table))


def _found_header(table: InputTable) -> InputTable:
    first = [str(column[0]) for column in table.columns]
    named = {plain(name) for name in first}
    if named & SOURCE_NAMES and named & TARGET_NAMES:
        header = table.first_as_header()
        again = {str(value) for i in ends(header) for value in header.columns[i]} & set(first)
        if again:
            raise InvalidInputError(
                f"Expected a header and no nodes that have its names (got names in {table.at(0)} that other lines have "
                "too: a header or an edge?)"
            )
        return header
    if len(first) > 2 and is_unnamed(first[0]):
        return table.first_as_header()
    numeric = [as_numbers(column[:1]) is not None for column in table.columns]
    below = [
        len(column) > 1 and not is_missing(column[1:]).any() and as_numbers(column[1:]) is not None
        for column in table.columns
    ]
    if any(rest and not top and text for rest, top, text in zip(below, numeric, first, strict=True)):
        if any(numeric):  # a mistake in the first edge, not a header
            return table
        return table.first_as_header()
    if all(numeric[:2]):
        return _without_column_numbers(table, first)
    if any(numeric[:2]):
        return table
    later = _later_ids(table, first)
    if later and not later & set(first[:2]) and all(map(ends_in_id, first[:2])):
        return table.first_as_header()
    if not later & set(first[:2]):
        raise InvalidInputError(
            f"Expected a header such as 'source,target' in {table.source} (got names in {table.at(0)} that occur "
            "nowhere else: a header or an edge?)"
        )
    return table


def _later_ids(table: InputTable, first: list[str]) -> set[str]:
    """Return ids of the rows below the first, without copies of it, which are no edges that know its names."""
    rows = zip(*(column[1:] for column in table.columns[:2]), strict=True)
    return {str(value) for row in rows if list(row) != first[:2] for value in row}


def _without_column_numbers(table: InputTable, first: list[str]) -> InputTable:
    """Return the table without a first row 0, 1 above names; refuse other first rows that may be no edge."""
    counts = len(table) > 4 and first[1] == str(len(table) - 1)
    numbers = table.lines[0] == 1 and first in (["0", "1"], ["1", "2"])
    later = _later_ids(table, first) if len(first) == 2 and (numbers or counts) else set()
    if not later:
        return table
    if numbers and all(re.fullmatch(r"[+-]?[0-9.]+", value) is None for value in later):
        return table.first_as_header() if len(table) > 2 else table  # one edge of names may be the mistake
    if numbers and not later & set(first):
        raise InvalidInputError(
            f"Expected a header such as 'source,target' in {table.source} (got {','.join(first)} in {table.at(0)}, ids "
            "that no other line has: an edge, or the numbers of the columns, as pandas writes them above columns "
            "without names? Put 'source,target' above it, or in its place)"
        )
    if counts and first[0] == str(len(later)) and first[0] not in later:
        raise InvalidInputError(
            f"Expected edges in {table.source} (got '{' '.join(first)}' in {table.at(0)}: there are {first[0]} nodes "
            f"and {first[1]} edges below, so the line seems to count them; remove it, or put 'source,target' above it "
            "if it is an edge)"
        )
    return table


def may_be_column_numbers(table: InputTable, ids: np.ndarray) -> bool:
    """Return whether the first of the edges `[2, E]` is `0,1` without a header, and no other edge has a node 0."""
    at_top = table.header is None and table.lines[0] == 1 and ids.shape[1] > 1
    return at_top and ids[:, 0].tolist() == [0, 1] and bool((ids[:, 1:] != 0).all())
