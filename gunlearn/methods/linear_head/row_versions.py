"""Versions of large tables of which a request changes few rows: one copy in memory, any version readable."""

from __future__ import annotations

import torch
from torch import Tensor


class RowVersions:
    """One version of some tables; all versions share their memory (Baker, "Shallow binding makes arrays fast", 1991).

    One version holds the tables. Each of the others knows a neighbour on the way there, and the rows in which it
    differs from that. Reading a version exchanges these rows on the way, so that a version costs the rows that changed.
    Values come back bit for bit. Two threads must not use versions of the same tables at once.
    """

    def __init__(self, tables: list[Tensor]) -> None:
        self._tables: list[Tensor] | None = tables
        self._toward: RowVersions | None = None
        self._rows: list[tuple[int, Tensor, Tensor]] = []  # table, ids, rows: put back from the last to the first
        self._written: list[tuple[int, Tensor, Tensor]] = []

    def hold(self) -> list[Tensor]:
        """Bring the tables to this version and return them; they hold it until another version is read or begun."""
        path = [self]
        while path[-1]._toward is not None:
            path.append(path[-1]._toward)
        for version, holder in zip(reversed(path[:-1]), reversed(path[1:]), strict=True):
            tables, back = holder._tables or [], []
            for table, ids, rows in reversed(version._rows):
                back.append((table, ids, tables[table][ids]))
                tables[table][ids] = rows
            holder._tables, holder._toward, holder._rows = None, version, back
            version._tables, version._toward, version._rows = tables, None, []
        return self._tables or []

    def begin(self) -> RowVersions:
        """Return a new version, the same so far, to change by `write` and `add` and then to `end`."""
        new = RowVersions(self.hold())
        self._tables, self._toward, self._rows = None, new, []
        new._written = self._rows
        return new

    def write(self, table: int, ids: Tensor, rows: Tensor) -> None:
        """Replace rows; `ids` are distinct."""
        rows_of = self.hold()[table]
        self._written.append((table, ids, rows_of[ids]))  # first: a run that is cut off can be undone
        rows_of[ids] = rows

    def add(self, table: int, ids: Tensor, rows: Tensor) -> None:
        """Add to rows; `ids` are distinct."""
        self.write(table, ids, self.hold()[table][ids] + rows)

    def changed(self, table: int) -> Tensor:
        """Return sorted ids of the rows written since `begin`."""
        ids = [ids for which, ids, _ in self._written if which == table]
        return torch.cat([torch.arange(0, device=self.hold()[table].device), *ids]).unique()

    def before(self, table: int, ids: Tensor) -> Tensor:
        """Return rows as they were at `begin`; `ids` are sorted."""
        rows = self.hold()[table][ids]
        for which, written, old in reversed(self._written):
            if which == table and ids.numel():
                place = torch.searchsorted(ids, written).clamp_(max=ids.numel() - 1)
                known = ids[place] == written
                rows[place[known]] = old[known]
        return rows

    def end(self) -> None:
        """Forget what changed since `begin`; the version before still knows it, for as long as it lives."""
        self._written = []
