"""Checks of the data that a task is given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from gunlearn.errors import InvalidInputError, InvalidTypeError


def check_data(data: Any) -> None:
    """Refuse what is no graph, or a graph with features that are not finite."""
    if not isinstance(data, Data):
        raise InvalidTypeError(f"Expected 'data' to be a torch_geometric Data (got {type(data).__name__})")
    x = data.get("x")
    if isinstance(x, Tensor) and x.layout not in (torch.strided, torch.sparse_csr):
        raise InvalidInputError(f"Expected dense or CSR features 'x' (got {x.layout}); pass x.to_sparse_csr()")
    if isinstance(x, Tensor) and x.is_floating_point():
        values = x.values() if x.layout == torch.sparse_csr else x
        if not torch.isfinite(values).all():
            raise InvalidInputError("Expected finite features 'x' (got NaN or infinity)")
