"""Rows of what belongs to nodes or graphs, set to "nothing"."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from gunlearn.requests.features import without_features


def blanked(name: str, value: Any, rows: Tensor) -> Any:
    """Return an attribute whose `rows` are zero, -1 in labels and ids that are integers, `None` in lists."""
    if isinstance(value, np.ndarray):
        value = value.copy()
        value[rows.cpu().numpy()] = 0 if value.dtype.kind in "biufc" else None
        return value
    if isinstance(value, (list, tuple)):
        gone = set(rows.tolist())
        return type(value)(None if i in gone else entry for i, entry in enumerate(value))
    if value.layout != torch.strided:
        return without_features(value, ((rows, None),))
    label = name == "y" or name.endswith("_id")
    label = label and not value.is_floating_point() and value.dtype != torch.bool
    return value.index_fill(0, rows.to(value.device), -1 if label else 0)


def has_row_per_node(name: str, value: Any, num_nodes: int, num_columns: int) -> bool:
    """Return whether a part of a container is a mask or a table with a row per node, which its shape says."""
    if not isinstance(value, (Tensor, np.ndarray)) or not value.ndim or value.shape[0] != num_nodes or num_nodes < 2:
        return False
    if (num_nodes == num_columns and "edge" in name) or tuple(value.shape[:2]) == (num_nodes, num_nodes):
        return False
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "bfc"
    return value.layout == torch.strided and (value.dtype == torch.bool or value.is_floating_point())
