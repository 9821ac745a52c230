"""Two edges given as a list of two lists, which can be read as two pairs, or as rows of an `edge_index`."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gunlearn.requests.training_graph import TrainingGraph


def has_two_readings(value: Any) -> bool:
    """Return whether edges are given as two lists of two nodes each; tuples are pairs."""
    two = isinstance(value, (list, tuple)) and len(value) == 2
    return two and not any(isinstance(row, tuple) for row in value) and all(_length(row) == 2 for row in value)


def _length(row: Any) -> int:
    if isinstance(row, list):
        return len(row)
    return len(row) if isinstance(row, np.ndarray | Tensor) and row.ndim else 0


def warn_of_other_reading(graph: TrainingGraph, pairs: Tensor) -> None:
    """Warn where the other reading of two pairs, `[2, 2]` with a pair per column, names edges of the graph, too.

    Warns:
        UserWarning: how the list was read, and how to say either.
    """
    other = pairs.t().to(graph.edge_index.device)
    keys, read = graph.pair_key(other), graph.pair_key(other.t())
    if bool((keys < 0).any()) or torch.equal(keys.unique(), read.unique()):
        return
    there = graph.is_edge(other) | (graph.is_edge(other.flip(0)) if graph.is_undirected else False)
    if bool(there.all()):
        warnings.warn(
            "a list of two lists of two nodes was read as two pairs, one per list. Read as the two rows of an "
            "edge_index it names edges of this graph, too: pass torch.tensor([...]) if these are meant, else tuples, "
            "[(u, v), (w, z)]",
            stacklevel=3,
        )
