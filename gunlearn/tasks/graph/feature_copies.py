"""Copies of features that a model keeps for itself, and what they are without the forgotten ones."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.tasks.graph.copied_tables import copied_table
from gunlearn.tasks.graph.fresh_values import FreshValues
from gunlearn.tasks.graph.held_tensors import held_tensors
from gunlearn.tasks.graph.node_records import node_records
from gunlearn.tasks.graph.taken_features import TakenFeatures, rows_of_features

_HALF = 0.5  # correlation of learned values with features from which they may have been computed


def add_feature_copies(found: FreshValues, model: nn.Module, partition: Any) -> None:
    """Add new values for what `model` keeps of forgotten features; warn of what may have been computed from features.

    A copy holds columns of `data.x`, each perhaps moved and scaled (standardised), or rows that were scaled, in any
    order, floating point type and place. It gets what it would hold had it been made from the retained features.

    Args:
        found: gets the new values; tensors that it names are left out.
        model: does not change.
        partition: the resolved request.
    """
    known = {one.name for one in found.slices} | {name for name, _, _ in found.records}
    own, unclear = _of_features(model, partition, known)
    found.slices += own.slices
    found.records += own.records
    if unclear and partition.forget_features:
        said = ", ".join(f"'{name}'" for name in unclear)
        warnings.warn(
            f"{said}: values by node that are no copy of data.x. If they were computed from features (propagated, "
            "encoded, fine-tuned), the forgotten ones are still in them: make them anew from result.data",
            stacklevel=2,
        )


def copied_features(model: nn.Module, partition: Any) -> list[str]:
    """Return the names of what `add_feature_copies` makes new."""
    found, _ = _of_features(model, partition, ())
    return [*(one.name for one in found.slices), *(name for name, _, _ in found.records)]


def warn_of_feature_copies(model: nn.Module, partition: Any) -> None:
    """Warn of what a model to be trained anew keeps of forgotten features: new weights do not take it out."""
    names = copied_features(model, partition)
    if names:
        warnings.warn(
            f"{type(model).__name__} keeps copies of forgotten features in {', '.join(map(repr, names))}, which new "
            "weights do not take out: let 'forward' read x, or make the model anew from result.data",
            stacklevel=5,
        )


def _of_features(model: nn.Module, partition: Any, known: Collection[str]) -> tuple[FreshValues, list[str]]:
    """Return new values of copies, and names of other values by node; both without those that are `known`."""
    found, unclear, taken = FreshValues(), list[str](), TakenFeatures.of(partition)
    if taken is None:
        return found, unclear
    learned = dict(model.named_parameters())
    for name, value in held_tensors(model).items():
        if name in known:
            continue
        is_copy, new = copied_table(name, value, taken)
        found.slices += [] if new is None else [new]
        if not is_copy and _may_be_computed(value, taken, name in learned):
            unclear.append(name)
    for name, store in node_records(model, taken.size).items():
        if name in known:
            continue
        rows = taken.records(store)
        if rows:
            found.records.append((name, taken.size, rows))
        else:
            unclear.append(name)
    return found, unclear


def _may_be_computed(value: Tensor, taken: TakenFeatures, learned: bool) -> bool:
    """Return whether values by node may have been computed from features; of learned ones, whether they are like them.

    Values of forgotten nodes that are all zero are none any more.
    """
    if value.dim() == 0 or value.size(0) != taken.size or not value.is_floating_point():
        return False
    table = value.detach().reshape(taken.size, -1)
    if not bool(table[taken.rows].any()) or bool((table == table[:1]).all()):
        return False
    if not learned:
        return True
    others = taken.others
    if table.size(1) != taken.x.size(1) or others.numel() < 2:
        return False
    one, two = (part.double() - part.double().mean(0) for part in (table[others], rows_of_features(taken.x, others)))
    return float(torch.cosine_similarity(one.flatten(), two.flatten(), dim=0)) > _HALF
