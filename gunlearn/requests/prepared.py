"""Graphs whose sorts and checks are made once: what is known of them, and whether they have changed since."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import ref

from torch import Tensor

from gunlearn.core.checksums import print_after, print_of
from gunlearn.errors import ChangedDataError

if TYPE_CHECKING:
    from torch_geometric.data import Data


@dataclass
class Prepared:
    """What is known of one graph.

    Args:
        values: its attributes by name, each with what tells whether its content has changed.
        memory: what was derived from this graph.
        facts: what holds for the graph and for all that requests leave of it.
    """

    values: dict[str, tuple[Any, Any]]
    memory: dict[str, Any] = field(default_factory=dict)
    facts: dict[Any, Any] = field(default_factory=dict)

    def check(self, data: Data) -> None:
        """Refuse `data` that holds other attributes or other values."""
        names = set(data.keys())
        changed = {name: "which is new" for name in sorted(names - set(self.values))}
        changed |= {name: "which is gone" for name in sorted(set(self.values) - names)}
        for name, (value, content) in self.values.items():
            if name in changed:
                continue
            if data[name] is not value and isinstance(value, Tensor):
                changed[name] = "another tensor"
            elif print_of(data[name]) != content:
                changed[name] = "other values"
        if changed:
            said = ", ".join(f"data.{name}: {how}" for name, how in changed.items())
            raise ChangedDataError(
                f"Expected a graph that has not changed since gunlearn.prepare (got {said}); prepare it again, "
                "data = gunlearn.prepare(data), or take result.data, which is prepared"
            )


#: By the number of the object, with a reference that drops the entry when the object is gone: `Data` has no hash.
_PREPARED: dict[int, tuple[ref[Any], Prepared]] = {}
#: Graphs that this thread has just checked; see `trusting`.
_TRUSTED: ContextVar[frozenset[int]] = ContextVar("graphs just checked", default=frozenset())


def take_note(data: Data, prepared: Prepared | None = None, rows: Tensor | None = None) -> Prepared:
    """Take note of a graph that was checked, as it is now.

    Args:
        data: the graph.
        prepared: what is known of the graph that it was made of.
        rows: of the features, which may differ from those of that graph, `[k]`; `None` for all.
    """
    before, kept = {} if prepared is None else prepared.values, {}
    for name in data.keys():  # noqa: SIM118 - iterating a Data yields pairs
        value, (old, content) = data[name], before.get(name, (None, None))
        if old is not value or old is None:
            content = print_of(value) if name != "x" or rows is None else print_after(content, value, rows)
        kept[name] = value, content
    number, new = id(data), Prepared(kept, facts={} if prepared is None else prepared.facts)
    _PREPARED[number] = ref(data, lambda _: _PREPARED.pop(number, None)), new
    return new


def hand_on(data: Data, retain: Data, rows: Tensor, memory: dict[str, Any]) -> None:
    """Make `retain`, what a request leaves of `data` with other features in some `rows`, prepared where `data` is."""
    prepared = _found(data)
    if prepared is not None:
        take_note(retain, prepared, rows).memory |= memory


def memory_of(data: Any) -> dict[str, Any]:
    """Return what was derived from prepared data, to be added to; of other data an empty dictionary.

    Raises:
        ChangedDataError: the data have changed since they were prepared.
    """
    prepared = _found(data)
    if prepared is None:
        return {}
    if id(prepared) not in _TRUSTED.get():
        prepared.check(data)
    return prepared.memory


def facts_of(data: Any) -> dict[Any, Any] | None:
    """Return what holds of prepared data and of all that requests leave of them, to be added to; `None` of others."""
    prepared = _found(data)
    return None if prepared is None else prepared.facts


def is_prepared(data: Any) -> bool:
    """Return whether data are prepared, and as they were then; see `memory_of`."""
    return _found(data) is not None and memory_of(data) is not None


def known_prints(data: Any) -> dict[str, Any]:
    """Return what tells the content of each attribute of prepared data, as they were then; nothing of other data."""
    prepared = _found(data)
    return {} if prepared is None else {name: content for name, (_, content) in prepared.values.items()}


@contextmanager
def trusting(data: Any) -> Iterator[None]:
    """Inside the block prepared data, which were checked just before, are not checked again."""
    prepared = _found(data)
    if prepared is None:
        yield
        return
    token = _TRUSTED.set(_TRUSTED.get() | {id(prepared)})
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def _found(data: Any) -> Prepared | None:
    found, prepared = _PREPARED.get(id(data), (None, None))
    return prepared if found is not None and found() is data else None
