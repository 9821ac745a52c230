"""The forms in which a model keeps pairs of nodes beside lists and matrices: neighbour tables, CSR, sets, codes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_NAMED = re.compile(r"(\d+)[^\d.]+(\d+)$")


@dataclass(frozen=True)
class Stored:
    """Pairs `[2, k]` that a model keeps: their name, how to write others in their place, and whether they are edges."""

    name: str
    pairs: Tensor
    without: Callable[[Tensor], None]


def other_forms(full: str, value: Any, size: int, put: Callable[[Any], None]) -> Iterator[Stored]:
    """Yield the pairs of one value of a graph of `size` nodes, in every form that it may have.

    Args:
        full: name of the value.
        value: any object.
        size: number of nodes.
        put: writes another one in its place.
    """
    ids = as_integers(value)
    if ids is not None and ids.dim() == 2 and ids.size(0) == size:
        yield from _table(full, value, ids, size, put)
    elif (
        ids is not None and ids.dim() == 1 and ids.numel() and size <= int(ids.max()) < size**2 and int(ids.min()) >= 0
    ):
        codes = ids
        yield Stored(full, torch.stack([codes // size, codes % size]), lambda keep: put(ids_alike(value, codes[keep])))
    elif hasattr(value, "remove_edges_from") and hasattr(value, "number_of_edges"):
        edges = [edge[:2] for edge in value.edges() if all(isinstance(end, Integral) for end in edge[:2])]

        def fewer_edges(keep: Tensor) -> None:
            graph = value.copy()
            graph.remove_edges_from(_where(edges, ~keep))
            put(graph)

        yield from _listed(full, edges, fewer_edges)
    elif type(value) in (set, frozenset, list, tuple, dict):
        yield from _collection(full, value, size, put)
    elif isinstance(value, nn.ParameterDict | nn.ModuleDict):
        yield from keyed(full, value)


def keyed(full: str, value: Any) -> Iterator[Stored]:
    """Yield the pairs that keys name, as in `"3-7"`; they are deleted in place."""
    keys = [(key, found) for key in value.keys() if (found := pair_of(key)) is not None]  # noqa: SIM118
    if len(keys) < len(value):
        return

    def fewer_keys(keep: Tensor) -> None:
        for key, _ in _where(keys, ~keep):
            del value[key]

    yield from _listed(full, [pair for _, pair in keys], fewer_keys)


def compressed(before: str, held: dict[str, Any], size: int, place: Callable[[str], Any]) -> Iterator[Stored]:
    """Yield the pairs of row pointers `[num_nodes + 1]` and columns (CSR) among tensors and arrays of one owner."""
    flat = {name: ids for name, value in held.items() if (ids := as_integers(value)) is not None and ids.dim() == 1}
    for pointer, start in flat.items():
        if start.numel() != size + 1 or int(start[0]) or bool((start.diff() < 0).any()):
            continue
        for name, column in flat.items():
            fits = name != pointer and column.numel() == int(start[-1]) > 0
            if not fits or int(column.max()) >= size or int(column.min()) < 0:
                continue
            row = torch.arange(size, device=start.device).repeat_interleave(start.diff())

            def shorter(
                keep: Tensor, pointer: str = pointer, name: str = name, row: Tensor = row, column: Tensor = column
            ) -> None:
                ends = torch.bincount(row[keep], minlength=size).cumsum(0)
                place(name)[name] = ids_alike(held[name], column[keep])
                place(pointer)[pointer] = ids_alike(held[pointer], torch.cat([ends.new_zeros(1), ends]))

            yield Stored(f"{before}{pointer}' and '{before}{name}", torch.stack([row, column]), shorter)


def as_integers(value: Any) -> Tensor | None:
    """Return a dense integer tensor or array as int64; `None` for anything else."""
    if type(value) is np.ndarray and value.dtype.kind in "iu":
        return torch.from_numpy(value.astype(np.int64))
    dense = isinstance(value, Tensor) and value.layout == torch.strided
    return value.long() if dense and value.dtype in (torch.long, torch.int, torch.short) else None


def ids_alike(value: Any, ids: Tensor) -> Any:
    """Return integers as a tensor or array of the kind of another one."""
    return ids.numpy().astype(value.dtype) if isinstance(value, np.ndarray) else ids.to(value)


def _where(values: list, mask: Tensor) -> list:
    return [value for value, chosen in zip(values, mask.tolist(), strict=True) if chosen]


def _listed(full: str, pairs: list, without: Callable[[Tensor], None]) -> Iterator[Stored]:
    if pairs:
        yield Stored(full, torch.tensor([[int(u), int(v)] for u, v in pairs]).t(), without)


def _table(full: str, value: Any, ids: Tensor, size: int, put: Callable[[Any], None]) -> Iterator[Stored]:
    """Yield the neighbours in the rows of a table, in which rows are filled up by ids that mean nothing."""
    row = torch.arange(size, device=ids.device)[:, None].expand_as(ids)
    valid = (ids >= 0) & (ids < size) & (ids != row)
    key = torch.where(valid, row * size + ids, -1)
    known = key[valid].unique()
    if not known.numel():
        return
    outside = ids[(ids < 0) | (ids >= size)]

    def filled(keep: Tensor) -> None:
        blank = outside.mode().values.expand_as(ids) if outside.numel() else row
        put(ids_alike(value, torch.where(torch.isin(key, known[~keep]), blank, ids)))

    yield Stored(full, torch.stack([known // size, known % size]), filled)


def _collection(full: str, value: Any, size: int, put: Callable[[Any], None]) -> Iterator[Stored]:
    """Yield the pairs of a set, list or dictionary of pairs, or of lists of neighbours by node."""
    if isinstance(value, dict):
        keyed_by_node = len(value) <= size and bool(value) and all(type(key) is int for key in value)
        if not keyed_by_node:
            less = dict(value)
            found = list(keyed(full, less))

            def fewer_keys(keep: Tensor) -> None:
                found[0].without(keep)
                put(less)

            yield from (Stored(full, one.pairs, fewer_keys) for one in found)
            return
        lists = [(node, _members(entry)) for node, entry in value.items()]
    else:
        if value and all(pair_of(entry) is not None for entry in value):
            entries = list(value)
            pairs: list = [pair_of(entry) for entry in entries]
            yield from _listed(full, pairs, lambda keep: put(type(value)(_where(entries, keep))))
            return
        if isinstance(value, set | frozenset) or len(value) != size:
            return
        lists = [(node, _members(entry)) for node, entry in enumerate(value)]
    if any(members is None for _, members in lists):
        return
    flat = [(node, end) for node, members in lists for end in members or ()]

    def fewer(keep: Tensor) -> None:
        left: dict[int, list[int]] = {node: [] for node, _ in lists}
        for node, end in _where(flat, keep):
            left[node].append(end)
        new = {node: _as(value[node], left[node]) for node, _ in lists}
        put(new if isinstance(value, dict) else type(value)(new.values()))

    yield from _listed(full, flat, fewer)


def _as(entry: Any, members: list[int]) -> Any:
    if isinstance(entry, Tensor | np.ndarray):
        return ids_alike(entry, torch.tensor(members, dtype=torch.long))
    return type(entry)(members)


def _members(entry: Any) -> list[int] | None:
    """Return the ids in a collection; `None` where it holds something else."""
    ids = as_integers(entry)
    if ids is not None:
        return ids.tolist() if ids.dim() == 1 else None
    plain = isinstance(entry, list | tuple | set | frozenset) and all(
        isinstance(end, Integral) and not isinstance(end, bool) for end in entry
    )
    return [int(end) for end in entry] if plain else None


def pair_of(key: Any) -> tuple[int, int] | None:
    """Return the two nodes that a tuple or a text such as `"3-7"` names."""
    if isinstance(key, str):
        found = _NAMED.match(key)
        return (int(found[1]), int(found[2])) if found else None
    pair = isinstance(key, tuple | frozenset) and len(key) == 2 and all(isinstance(end, Integral) for end in key)
    return tuple(int(end) for end in key) if pair else None  # type: ignore[return-value]
