"""Rows of tables that forgotten nodes share with others: hashed ids, and ids of two nodes."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gunlearn.errors import GunlearnError
from gunlearn.seed import isolated_rng
from gunlearn.tasks.graph.lookups import Lookups
from gunlearn.tasks.trial import private_copy

if TYPE_CHECKING:
    from gunlearn.tasks.base import Task

_FEW = 0.5  # of the nodes have an id that no other has: then a column of integers holds categories


def warn_of_shared_rows(
    lookups: dict[tuple[str, int], Tensor], groups: dict[int, Tensor], model: nn.Module, task: Task, partition: Any
) -> None:
    """Warn of tables in which forgotten nodes look up rows that retained nodes look up too.

    A table of categories is none: its rows follow from features or edges, not from a node's number.

    Args:
        lookups: entries that each row of a graph reads, `[num_rows, k]`, by tensor and dimension.
        groups: which rows are forgotten, boolean, by number of rows.
        model: does not change.
        task: calls it.
        partition: the resolved request.
    """
    shared = {at: index for at, index in lookups.items() if _is_shared(index, groups[index.size(0)])}
    if not shared:
        return
    ids = {at for at, index in shared.items() if _mostly_alone(index)}
    hashed = set(shared) - ids
    if hashed:
        hashed &= _by_number(shared, groups, model, task, partition)
    names = sorted({name for name, _ in ids | hashed})
    if names:
        warnings.warn(
            f"{', '.join(map(repr, names))}: forgotten nodes look up rows there that other nodes look up too (a shared "
            "or hashed id), so that what they taught these rows stays; train the rows anew, or let 'finetune' or "
            "'retrain' do so",
            stacklevel=3,
        )


def _is_shared(index: Tensor, gone: Tensor) -> bool:
    return bool(torch.isin(index[gone], index[~gone]).any())


def _mostly_alone(index: Tensor) -> bool:
    return index.unique().numel() > _FEW * index.numel()


def _by_number(
    lookups: dict[tuple[str, int], Tensor], groups: dict[int, Tensor], model: nn.Module, task: Task, partition: Any
) -> set[tuple[str, int]]:
    """Return the tables whose rows are looked up alike with the nodes' features in another order and no edges."""
    data = partition.retain_data
    other, size = copy.copy(data), int(data.num_nodes)
    for name in data.keys():  # noqa: SIM118 - iterating a Data yields pairs
        value, edges = data[name], data.edge_index.size(1)
        if not isinstance(value, Tensor) or value.layout != torch.strided or not value.dim():
            continue
        if name == "edge_index":
            other[name] = value[:, :0]
        elif value.size(0) == size and name != "batch":
            other[name] = value.flip(0) * 3 if value.is_floating_point() else value.flip(0)
        elif value.size(0) == edges:
            other[name] = value[:0]
    probe = private_copy(getattr(model, "_orig_mod", model), task).eval()
    try:
        with isolated_rng(), torch.no_grad(), Lookups(probe, set(groups)) as seen:
            task.encode(probe, other)  # type: ignore[attr-defined]
    except GunlearnError:
        return set(lookups)
    return {at for at, index in lookups.items() if at in seen.found and torch.equal(seen.found[at], index)}
