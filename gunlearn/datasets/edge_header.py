"""The header of an edge list: which columns are the ends, and which only number the rows."""

import warnings
from dataclasses import replace

import numpy as np

from gunlearn.datasets.column_names import counts_rows, is_unnamed, kind_of
from gunlearn.datasets.text_tables import InputTable, as_numbers, plain
from gunlearn.errors import InvalidInputError

# Without blanks and in small letters.
SOURCE_NAMES = {"source", "src", "from", "fromid", "fromnodeid", "sourceid", "u", "head", "sender", "node1"}
TARGET_NAMES = {
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
_ROW_NUMBERS = {"id", "index", "edgeid", "linkid", "rowid", "row", "rownumber", "no", "nr", "number", "key"}
#: Names of the columns that become tensors beside `edge_index`.
ROLES = {
    "edge_weight": {"weight", "weights", "w", "edgeweight"},
    "edge_time": {"time", "timestamp", "timestamps", "ts", "t", "date", "datetime", "edgetime", "unixtime"},
    "edge_type": {"type", "edgetype", "relation", "rel", "predicate"},
}


def without_row_numbers(table: InputTable) -> InputTable:
    """Return the table without pandas' index, and without a column such as `id` that numbers the edges."""
    if table.header is None:
        return table
    names = [plain(name) for name in table.header]
    named = any(name in SOURCE_NAMES for name in names) and any(name in TARGET_NAMES for name in names)
    wide = [i for i, name in enumerate(table.header) if not is_unnamed(name)]
    if not named and len(table) == len(wide) > 2 and _is_matrix(table, wide):
        raise InvalidInputError(
            f"Expected columns 'source' and 'target' in {table.source} (got as many rows as columns, {len(wide)}: an "
            "adjacency matrix? Turn it into a list of edges, or name the columns)"
        )
    left_out = {i for i, name in enumerate(table.header) if is_unnamed(name) and counts_rows(table, i)}
    others = [i for i, name in enumerate(names) if i not in left_out and not any(name in r for r in ROLES.values())]
    if not named and len(others) > 2 and (names[others[0]] in _ROW_NUMBERS or is_unnamed(names[others[0]])):
        values = table.columns[others[0]]
        if as_numbers(values) is None or len(np.unique(values.astype(str))) != len(values):
            raise InvalidInputError(
                f"Expected columns 'source' and 'target' in {table.source} (got {list(table.header)}, whose first "
                "could number the edges or name their nodes)"
            )
        left_out.add(others[0])
    if len(names) - len(left_out) < 2 or not left_out:
        return table
    kept = [i for i in range(len(names)) if i not in left_out]
    header = tuple(table.header[i] for i in kept)
    return replace(table, header=header, columns=tuple(table.columns[i] for i in kept))


def _is_matrix(table: InputTable, columns: list[int]) -> bool:
    """Return whether columns are numbered, or hold only 0 and 1."""
    numbered = [(table.header or ())[i] for i in columns] == [str(i) for i in range(len(columns))]
    return numbered or all(set(table.columns[i].astype(str)) <= {"0", "1"} for i in columns)


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
            numbers = [str(column[0]) for column in table.columns] == [str(i) for i in range(len(table.columns))]
            place = "in place of the first line, which counts the columns" if numbers else "in the first line"
            raise InvalidInputError(
                f"Expected 2 columns (source, target) without a header in {table.at(0)} (got {len(table.columns)}); "
                f"name them {place}, such as 'source,target,weight' or 'source,target,time'"
            )
        return 0, 1
    names = [plain(name) for name in table.header]
    found = [[i for i, name in enumerate(names) if name in known] for known in (SOURCE_NAMES, TARGET_NAMES)]
    if any(len(columns) > 1 for columns in found):
        raise InvalidInputError(
            f"Expected one source and one target column in {table.source} (got {list(table.header)})"
        )
    if found[0] and found[1]:
        return found[0][0], found[1][0]
    if len(names) > 2 and any(name in known for name in names[:2] for known in ROLES.values()):
        raise InvalidInputError(f"Expected columns 'source' and 'target' in {table.source} (got {list(table.header)})")
    return 0, 1


def check_two_kinds(table: InputTable, ids: np.ndarray) -> None:
    """Refuse ids `[2, k]` that stand in both columns where these hold two kinds of nodes, such as `user` and `item`.

    User 1 and item 1 would be one node.

    Warns:
        UserWarning: names that end in "id" and may be of two kinds.
    """
    if table.header is None:
        return
    names = [table.header[i] for i in ends(table)]
    kinds, stems = [kind_of(name) for name in names], [plain(name).removesuffix("id") for name in names]
    certain = None not in kinds and kinds[0] != kinds[1]
    told = all(plain(name).endswith("id") for name in names) and stems[0][:4] != stems[1][:4] and kinds[0] != kinds[1]
    if not (certain or told) or plain(names[0]) in SOURCE_NAMES or plain(names[1]) in TARGET_NAMES:
        return
    both = len(np.intersect1d(ids[0], ids[1]))
    if both and certain:
        raise InvalidInputError(
            f"Expected ids of two kinds of nodes to differ in columns {names[0]!r} and {names[1]!r} of {table.source} "
            f"(got {both} in both, as if they were the same nodes); give them prefixes, such as u1 and m1, "
            "in columns 'source' and 'target', or build a HeteroData (gunlearn.nn.homogeneous); if the nodes are of "
            "one kind, rename the columns alone"
        )
    if both:
        warnings.warn(
            f"{both} ids stand in both columns, {names[0]!r} and {names[1]!r}, of {table.source} and are read as the "
            "same nodes; if they are of two kinds, give them prefixes, such as u1 and m1",
            stacklevel=4,
        )
