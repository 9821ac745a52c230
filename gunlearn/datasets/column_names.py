"""What the names of columns say: whose ids they hold, and which columns are only an index."""

import re

import numpy as np

from gunlearn.datasets.text_tables import InputTable, plain

_PERSONS = (
    "account actor artist author buyer client contact customer director editor employee friend follower handle "
    "listener member patient person player reader researcher reviewer seller student subscriber user viewer voter"
)
_THINGS = (
    "album app article asset book business category channel city compound country course device disease document "
    "domain drug effect event gene genre group hashtag house ingredient item job journal keyword location "
    "merchant movie org organization page paper patent place playlist post product project protein publication "
    "query recipe repo restaurant school shop show song station store tag team topic track tweet venue video "
    "website word"
)
_STEMS = {name: "person" for name in _PERSONS.split()} | {name: name for name in _THINGS.split()}
_BESIDE = re.compile(r"(ids?|idx|index|name|no|nr|num|number|code|key)$")
_ENDS_IN_ID = re.compile(r"(^|[_\-. ])ids?$|[a-z]I[dD]$|ID$", re.ASCII)


def kind_of(name: str) -> str | None:
    """Return what a column's name says that its entries are: `"person"` for people of any kind, a thing, or `None`."""
    name = plain(name)
    for stem in dict.fromkeys((name, _BESIDE.sub("", name))):
        for form in (stem, stem.removesuffix("s")):
            if form in _STEMS:
                return _STEMS[form]
    return None


def names_ids(name: str) -> bool:
    """Return whether a column's name promises ids: `user`, `paper`, `twitter_id`, `name`."""
    return kind_of(name) is not None or ends_in_id(name) or plain(name) == "name"


def ends_in_id(name: str) -> bool:
    """Return whether a name ends in the word "id": `user_id`, `paperID`, not `paid`."""
    return _ENDS_IN_ID.search(name.strip()) is not None


def is_unnamed(name: str) -> bool:
    """Return whether a column has no name of its own, as pandas writes an index."""
    return re.fullmatch(r"(unnamed\d*)?", plain(name)) is not None


def counts_rows(table: InputTable, column: int) -> bool:
    """Return whether a column holds 0, 1, 2, ... or 1, 2, 3, ... in this order."""
    values = table.columns[column]
    return any(
        str(values[0]) == str(start)
        and np.array_equal(values.astype(str), np.arange(start, start + len(table)).astype(str))
        for start in ((0, 1) if len(table) else ())
    )
