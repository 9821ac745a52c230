"""Warnings of attributes that may hold what is forgotten, and that stay because nobody can tell."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import Any

import torch

from gunlearn.requests.adjacency import is_adjacency
from gunlearn.requests.forgotten import Forgotten
from gunlearn.requests.leftovers import still_holds
from gunlearn.requests.list_names import integers, made_of_edges, may_list_nodes


def warn_of_unclear(
    values: Mapping[str, Any], forgotten: Forgotten, others: Collection[str], unclear: list[str]
) -> None:
    """Warn of attributes, by name.

    Args:
        values: the attributes by name.
        forgotten: what goes.
        others: attributes that are known to be something else.
        unclear: integers that may be positions of edges.
    """
    edges, nodes = bool(forgotten.columns.numel()), forgotten.nodes
    for name in unclear if edges else ():
        warnings.warn(
            f"'data.{name}' may list columns of edge_index, whose numbers change when edges go, and stays; name "
            "it '..._edge_ids' if it does, and it is counted anew",
            stacklevel=3,
        )
    for name in sorted(set(values) - set(others)) if edges or nodes.numel() else ():
        value = values[name]
        if hasattr(value, "has_edge"):
            warnings.warn(
                f"'data.{name}' is a graph of its own ({type(value).__name__}), in which what is forgotten stays; take "
                "it out there, or delete the attribute",
                stacklevel=3,
            )
        elif made_of_edges(name) and len(getattr(value, "shape", ())) == 2:
            warnings.warn(
                f"'data.{name}' seems to be made from the edges of the whole graph (a graph or matrix of its edges, "
                "cells or clusters), and stays; make it anew from the retained edges",
                stacklevel=3,
            )
        elif nodes.numel() and may_list_nodes(name) and _holds(name, value, forgotten):
            warnings.warn(
                f"'data.{name}' may list nodes, forgotten ones too, and stays; name it 'node_idx' if it does",
                stacklevel=3,
            )
        elif not is_adjacency(value, forgotten.graph.num_nodes) and still_holds(name, value, forgotten):
            warnings.warn(
                f"'data.{name}' may list or describe what is forgotten, and stays as it is; compute it again from the "
                "retained data, or delete it",
                stacklevel=3,
            )


def _holds(name: str, value: Any, forgotten: Forgotten) -> bool:
    read = integers(name, value)
    if (
        read is None
        or read[0].dim() != 1
        or read[0].numel() in (forgotten.graph.num_nodes, forgotten.graph.num_columns)
    ):
        return False
    ids = read[0]
    inside = ids.numel() > 0 and int(ids.min()) >= 0 and int(ids.max()) < forgotten.graph.num_nodes
    return inside and bool(torch.isin(ids, forgotten.nodes.to(ids.device)).any())
