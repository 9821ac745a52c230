"""Versions of large tables of which a request changes few rows: they share memory, and any can be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import WeakSet, ref

import torch
from torch import Tensor


@dataclass(eq=False)
class _Place:
    """Where a version is: at the tables, or some rows away from another place. Places on the way outlive versions."""

    owner: Callable[[], RowVersions | None]
    tables: list[Tensor] | None = None
    toward: _Place | None = None
    rows: list[tuple[int, Tensor, Tensor]] = field(default_factory=list)  # table, ids, rows: put back from the last


class RowVersions:
    """One version of some tables; all versions share their memory (Baker, "Shallow binding makes arrays fast", 1991).

    One version holds the tables. Each of the others knows a neighbour on the way there, and the rows in which it
    differs from that. Reading a version exchanges these rows on the way, so that a version costs the rows that changed.
    Values come back bit for bit. Two threads must not use versions of the same tables at once.

    The way may lead over versions that nobody holds any more. Once their rows take more memory than the tables, the
    version that is to be changed next gets tables of its own: what is in memory stays within a constant factor of the
    tables for each version held, and the copy costs no more than the changes before it did.
    """

    def __init__(self, tables: list[Tensor]) -> None:
        self._place = _Place(ref(self), tables)
        self._sharing = WeakSet([self._place])  # all places on the way to the same tables
        self._written: list[tuple[int, Tensor, Tensor]] = []

    def hold(self) -> list[Tensor]:
        """Bring the tables to this version and return them; they hold it until another version is read or begun."""
        path = [self._place]
        while path[-1].toward is not None:
            path.append(path[-1].toward)
        for place, holder in zip(reversed(path[:-1]), reversed(path[1:]), strict=True):
            tables, back = holder.tables or [], []
            for table, ids, rows in reversed(place.rows):
                back.append((table, ids, tables[table][ids]))
                tables[table][ids] = rows
            holder.tables, holder.toward, holder.rows = None, place, back
            place.tables, place.toward, place.rows = tables, None, []
        return self._place.tables or []

    def begin(self) -> RowVersions:
        """Return a new version, the same so far, to change by `write` and `add` and then to `end`."""
        tables = self.hold()
        if self._unheld() > sum(table.numel() for table in tables):
            tables = [table.clone() for table in tables]
            self._place.owner = _nobody  # it stays for those that need it
            self._place = _Place(ref(self), tables)
            self._sharing = WeakSet([self._place])
        new = RowVersions(tables)
        self._place.tables, self._place.toward, self._place.rows = None, new._place, []
        self._sharing.add(new._place)
        new._sharing, new._written = self._sharing, self._place.rows
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

    def _unheld(self) -> int:
        """Return how many numbers are kept for places whose version nobody holds."""
        gone = [place for place in self._sharing if place.owner() is None]
        return sum(ids.numel() + rows.numel() for place in gone for _, ids, rows in place.rows)


def _nobody() -> None:
    """Return the owner of a place whose version has gone elsewhere."""
