"""The tensors of a PyG `Data` that say which edges, relations and graphs there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gunlearn.errors import InvalidRequestError

if TYPE_CHECKING:
    from torch_geometric.data import Data

MASKS = ("train_mask", "val_mask", "test_mask")
#: Name of the mask `[num_nodes]` of forgotten nodes: nothing is drawn among them, and they have no name any more.
GONE = "forgotten_mask"


def num_graphs(data: Data) -> int:
    """Return how many graphs a batch holds: its `num_graphs`, else the largest number in `data.batch` plus one."""
    if not isinstance(data.get("batch"), Tensor):
        raise InvalidRequestError(
            "Expected a batch of graphs with 'data.batch' (got a single graph); see "
            "torch_geometric.data.Batch.from_data_list"
        )
    number = getattr(data, "num_graphs", None)
    return int(data.batch.max()) + 1 if number is None else int(number)


def relation_tensor(data: Data, num_columns: int) -> Tensor | None:
    """Return the relation of each column, `data.edge_type` `[E]`, or `None`."""
    value = data.get("edge_type")
    if value is None:
        return None
    integers = isinstance(value, Tensor) and not value.is_floating_point() and value.dtype != torch.bool
    if not integers or value.shape != (num_columns,) or int(value.min()) < 0:
        got = f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        raise InvalidRequestError(f"Expected 'data.edge_type' to hold {num_columns} integers >= 0 (got {got})")
    return value.long()


def pair_tensor(data: Data, name: str) -> Tensor:
    """Return the attribute `name` of `data`, `[2, n]` int64."""
    value = getattr(data, name, None)
    if value is None:
        raise InvalidRequestError(f"Expected data with '{name}' (got a Data with {sorted(data.keys())})")
    if not isinstance(value, Tensor) or value.dtype != torch.long or value.dim() != 2 or value.size(0) != 2:
        got = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise InvalidRequestError(f"Expected 'data.{name}' to be an int64 tensor of shape [2, n] (got {got})")
    # PyG's EdgeIndex carries caches of the unfiltered edges.
    return value.as_tensor() if hasattr(value, "as_tensor") else value


def check_node_ids(edge_index: Tensor, num_nodes: int, name: str) -> None:
    """Refuse end points outside `[0, num_nodes)`."""
    if edge_index.numel() and (int(edge_index.min()) < 0 or int(edge_index.max()) >= num_nodes):
        low, high = int(edge_index.min()), int(edge_index.max())
        raise InvalidRequestError(f"Expected node ids of '{name}' in [0, {num_nodes}) (got {low} to {high})")
