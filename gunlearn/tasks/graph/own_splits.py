"""Splits that data bring along: masks of nodes, one column per split where there are several."""

import copy

import torch
from torch import Tensor
from torch_geometric.data import Data

from gunlearn.errors import InvalidInputError
from gunlearn.requests.graph_tensors import MASKS
from gunlearn.requests.ids import checked_masks


def own_split(data: Data, split: int) -> Data:
    """Return a shallow copy with one of the data's own splits of nodes in its masks, boolean `[num_nodes]`.

    A mask `[num_nodes, num_splits]` has a column for each split; one of shape `[num_nodes]` is the same in all.

    Args:
        data: with `train_mask`, and `val_mask` and `test_mask` where there are any.
        split: which, from 0.

    Raises:
        InvalidInputError: no masks, others than those, or no such split.
        InvalidRequestError: a training node is a test node.
    """
    masks = {name: data[name] for name in MASKS if isinstance(data.get(name), Tensor)}
    if "train_mask" not in masks:
        raise InvalidInputError("Expected data.train_mask for 'split' (got none); without 'split' one is drawn")
    for name, mask in masks.items():
        if mask.dtype != torch.bool or mask.dim() not in (1, 2) or mask.size(0) != data.num_nodes:
            raise InvalidInputError(
                f"Expected data.{name} to be boolean of shape [{data.num_nodes}, num_splits] "
                f"(got {tuple(mask.shape)} of {mask.dtype})"
            )
    counts = {name: mask.size(1) for name, mask in masks.items() if mask.dim() == 2}
    if len(set(counts.values())) > 1:
        raise InvalidInputError(f"Expected as many splits in each mask (got {counts})")
    number = next(iter(counts.values()), 1)
    if isinstance(split, bool) or not isinstance(split, int) or not 0 <= split < number:
        raise InvalidInputError(f"Expected 'split' from 0 to {number - 1}, a split of the data's own (got {split!r})")
    out = copy.copy(data)
    for name, mask in masks.items():
        out[name] = mask[:, split].clone() if mask.dim() == 2 else mask
    checked_masks(out, int(data.num_nodes))
    return out
