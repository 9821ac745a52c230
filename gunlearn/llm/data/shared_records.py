"""Rows that are in two sets of an evaluation, of which one of them then says nothing."""

import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

from gunlearn.errors import InvalidInputError

#: Sets that are measured against each other.
_APART = ("forget", "retain", "holdout")


def row_tokens(rows: Iterable[Mapping[str, Any]]) -> list[tuple[int, ...]]:
    """Return the token ids of each row, by which encoded rows are told apart."""
    return [tuple(map(int, row["input_ids"])) for row in rows]


def check_disjoint(
    sets: Mapping[str, Sequence[Hashable]], names: Mapping[str, str] | None = None, warned: bool = True
) -> None:
    """Refuse rows to forget, to retain and held-out ones of which one set lies in another one.

    Args:
        sets: what tells rows apart, a value per row, by set; other sets may share rows.
        names: what holds the rows of a set, in errors; by default the set's name.
        warned: warn where only some rows are in both.

    Raises:
        InvalidInputError: every row of one set is in another one.

    Warns:
        UserWarning: some rows are in two sets.
    """
    for one, two in combinations([part for part in _APART if part in sets], 2):
        both = {*sets[one]} & {*sets[two]}
        if not both:
            continue
        held = [(names or {}).get(part, f"'{part}'") for part in (one, two)]
        got = f"{len(both)} of the {len({*sets[one]})} rows of {held[0]} among the {len({*sets[two]})} of {held[1]}"
        if len(both) in (len({*sets[one]}), len({*sets[two]})):
            raise InvalidInputError(
                f"Expected other rows under --{two} than under --{one} (got {got}): figures of the two sets could not "
                "be told apart"
            )
        if warned:
            warnings.warn(f"Expected no common rows of '{one}' and '{two}' (got {got})", UserWarning, stacklevel=4)
