"""Requests from a file of ids, one thing per line."""

import re
from pathlib import Path

from gunlearn.datasets.node_ids import read_ids
from gunlearn.datasets.text_tables import plain, read_table
from gunlearn.errors import InvalidInputError
from gunlearn.requests.base import Request
from gunlearn.requests.edges import ForgetEdges
from gunlearn.requests.items import ForgetItems
from gunlearn.requests.nodes import ForgetFeatures, ForgetNodes

_HEADERS = {1: {"id", "ids", "node", "nodeid", "name"}, 2: {"source", "target", "src", "dst", "from", "to"}}


def read_request(path: str | Path, forget: str) -> Request:
    """Return the request for what a file lists: `"edges"` (two ids per line), `"nodes"`, `"features"`, `"items"` (one).

    Ids are those of the graph's own file, `data.node_id`; the row numbers of a graph whose ids are 0, 1, ... Items are
    named by row numbers, or by `data.item_id`.

    Args:
        path: delimited text, see `read_table`; a first line such as `id` or `source,target` is a header.
        forget: the kind of things.

    Raises:
        DatasetNotFoundError: no such file.
        InvalidInputError: no text, or another number of columns.
    """
    width = 2 if forget == "edges" else 1
    table = read_table(Path(path), width, forget.removesuffix("s"))
    if {plain(str(column[0])) for column in table.columns} <= _HEADERS[width]:
        table = table.first_as_header()
    if len(table.columns) != width or not len(table):
        got = f"{len(table.columns)} in {len(table)} lines"
        raise InvalidInputError(f"Expected {width} {'ids' if width == 2 else 'id'} per line of {path} (got {got})")
    read_ids(table, range(width))  # refuse missing ones, with the line
    texts = [[str(value) for value in column] for column in table.columns]
    numbers = all(re.fullmatch(r"0|[1-9][0-9]*", text) for column in texts for text in column)
    ids = [[int(text) for text in column] for column in texts] if numbers else texts
    by_id = True if numbers else None
    if forget == "edges":
        return ForgetEdges(list(zip(*ids, strict=True)), by_id=by_id)
    if forget == "items":
        return ForgetItems(ids[0])
    return (ForgetFeatures if forget == "features" else ForgetNodes)(ids[0], by_id=by_id)
