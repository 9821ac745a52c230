"""Splits of independent items."""

from __future__ import annotations

import copy
from typing import Any

import torch

from gunlearn.errors import InvalidInputError
from gunlearn.requests.ids import checked_masks
from gunlearn.tasks.items.tables import ItemTable, as_table


def item_split(data: Any, val_ratio: float = 0.1, test_ratio: float = 0.1, seed: int = 0) -> Any:
    """Hold out items for validation and test; the others are for training.

    A `test_mask` that the data have stays (official test images are test items), and nothing more is drawn for test.

    Args:
        data: items in any form that `unlearn` takes.
        val_ratio: share of the items that are free to draw, held out for validation.
        test_ratio: share held out for test, where there is no `test_mask`.
        seed: of the draw; the global random state does not change.

    Returns:
        A table (or a shallow copy of the data) with `train_mask`, `val_mask`, `test_mask`, boolean `[num_items]`,
        disjoint.

    Raises:
        InvalidInputError: ratios that leave no training item.

    Example:
        >>> import gunlearn as gu
        >>> data = gu.item_split(gu.load("digits", images=True), test_ratio=0.2)
        >>> int(data.test_mask.sum())
        359
    """
    table = copy.copy(as_table(data))
    if isinstance(table, ItemTable):  # a pair or a data set has no place for the masks
        table = ItemTable(**table)
    size = table.x.shape[0]
    test = checked_masks(table, size).get("test_mask")
    share = val_ratio + (0 if test is not None else test_ratio)
    if not (val_ratio >= 0 and test_ratio >= 0 and share < 1):
        raise InvalidInputError(f"Expected held-out ratios that leave training items (got {val_ratio}, {test_ratio})")
    free = torch.ones(size, dtype=torch.bool) if test is None else ~test.cpu()
    rows = free.nonzero().view(-1)
    rows = rows[torch.randperm(rows.numel(), generator=torch.Generator().manual_seed(seed))]
    sizes = [int(val_ratio * rows.numel()), 0 if test is not None else int(test_ratio * rows.numel())]
    val, drawn, train = rows.split([*sizes, rows.numel() - sum(sizes)])
    if not train.numel():
        raise InvalidInputError(f"Expected items to train on (got {size} items, of which none is left)")
    for name, chosen in (("train_mask", train), ("val_mask", val), ("test_mask", drawn)):
        if name != "test_mask" or test is None:
            mask = torch.zeros(size, dtype=torch.bool).index_fill(0, chosen, True)
            setattr(table, name, mask.to(getattr(table.x, "device", "cpu")))
    return table
