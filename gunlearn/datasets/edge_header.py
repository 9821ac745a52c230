"""The header of an edge list: whether there is one, and which columns are the ends."""

import warnings

import numpy as np

from gunlearn.datasets.text_tables import InputTable, as_numbers, is_missing, plain
from gunlearn.errors import InvalidInputError

# Without blanks and in small letters.
_SOURCE = {"source", "src", "from", "fromid", "fromnodeid", "sourceid", "u", "head", "sender", "node1"}
_TARGET = {
    "target",
    "dst",
    "to",
    "toid",
    "tonodeid",
    "targetid",
    "v",
    "tail",
    "receiver",
    "node2",
    "dest",
    "destination",
}
#: What a node may be beside nodes of another kind; other columns are of two kinds where both names end in "id".
_KINDS = {"user", "item", "movie", "product", "book", "song", "track", "artist", "customer", "author", "business"}
#: Names of the columns that become tensors beside `edge_index`.
ROLES = {
    "edge_weight": {"weight", "weights", "w", "edgeweight"},
    "edge_time": {"time", "timestamp", "timestamps", "ts", "t", "date", "datetime", "edgetime", "unixtime"},
    "edge_type": {"type", "edgetype", "relation", "rel", "predicate"},
}


def with_edge_header(table: InputTable) -> InputTable:
    """Return an edge list with its header known, if it has one; refuse a first row that could be either.

    A first row is a header if it names the ends, or has a text above a column of numbers. Two names that occur
    nowhere else could be a header or an edge.
    """
    if table.header is not None:
        return table
    first = [str(column[0]) for column in table.columns]
    named = {plain(name) for name in first}
    if named & _SOURCE and named & _TARGET:
        header = table.first_as_header()
        again = {str(value) for i in ends(header) for value in header.columns[i]} & set(first)
        if again:
            raise InvalidInputError(
                f"Expected a header 'source,target' above nodes that are called so (got {table.at(0)}: a header or an "
                "edge?)"
            )
        return header
    numeric = [as_numbers(column[:1]) is not None for column in table.columns]
    below = [
        len(column) > 1 and not is_missing(column[1:]).any() and as_numbers(column[1:]) is not None
        for column in table.columns
    ]
    if any(rest and not top and text for rest, top, text in zip(below, numeric, first, strict=True)):
        if any(numeric):  # a mistake in the first edge, not a header
            return table
        return table.first_as_header()
    if any(numeric[:2]):
        return table
    later = {str(value) for column in table.columns[:2] for value in column[1:]}
    if not later & set(first[:2]):
        raise InvalidInputError(
            f"Expected a header such as 'source,target' in {table.source} (got names in {table.at(0)} that occur "
            "nowhere else: a header or an edge?)"
        )
    return table


def ends(table: InputTable) -> tuple[int, int]:
    """Return the numbers of the source and the target column."""
    if len(table.columns) < 2:
        shown = ",".join(str(column[0]) for column in table.columns)[:80] if len(table) else ""
        raise InvalidInputError(
            f"Expected 2 columns (source, target) in {table.at(0) if len(table) else table.source} (got "
            f"{len(table.columns)}: {shown!r})"
        )
    if table.header is None:
        if len(table.columns) > 2:
            raise InvalidInputError(
                f"Expected 2 columns (source, target) without a header in {table.at(0)} (got {len(table.columns)}); "
                "name them in the first line, such as 'source,target,weight' or 'source,target,time'"
            )
        return 0, 1
    names = [plain(name) for name in table.header]
    found = [[i for i, name in enumerate(names) if name in known] for known in (_SOURCE, _TARGET)]
    if any(len(columns) > 1 for columns in found):
        raise InvalidInputError(
            f"Expected one source and one target column in {table.source} (got {list(table.header)})"
        )
    if found[0] and found[1]:
        return found[0][0], found[1][0]
    if len(names) > 2 and any(name in known for name in names[:2] for known in ROLES.values()):
        raise InvalidInputError(f"Expected columns 'source' and 'target' in {table.source} (got {list(table.header)})")
    return 0, 1


def warn_of_two_kinds(table: InputTable, ids: np.ndarray) -> None:
    """Warn where the names of the two columns are of two kinds (`user`, `item`) and ids `[2, k]` stand in both."""
    if table.header is None:
        return
    names = [table.header[i] for i in ends(table)]
    stems = [plain(name).removesuffix("s").removesuffix("id") for name in names]
    told = all(plain(name).endswith("id") for name in names) or bool(_KINDS & set(stems))
    if not told or stems[0][:4] == stems[1][:4] or plain(names[0]) in _SOURCE or plain(names[1]) in _TARGET:
        return
    both = len(np.intersect1d(ids[0], ids[1]))
    if both:
        warnings.warn(
            f"{both} ids stand in both columns, {names[0]!r} and {names[1]!r}, of {table.source} and are read as the "
            "same nodes; if they are of two kinds, give them prefixes, such as u1 and m1",
            stacklevel=4,
        )
