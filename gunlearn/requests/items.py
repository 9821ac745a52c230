"""Requests to forget independent items: rows of an array, named one by one, by a mask, or drawn."""

from __future__ import annotations

import copy
from collections.abc import Hashable
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, ClassVar, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from gunlearn.core.checks import check_seed, check_size, the_one_given
from gunlearn.errors import EmptyForgetSetError, InvalidRequestError, InvalidTypeError
from gunlearn.requests.apply import select_entries
from gunlearn.requests.base import Request
from gunlearn.requests.edges import _named_tensor, _sorted_content
from gunlearn.requests.partition import _content_hash
from gunlearn.requests.training_graph import TrainingGraph


@dataclass(frozen=True, eq=False)
class ItemPartition:
    """Independent items, split by a request.

    Args:
        data: the original, the caller's own object; never changed.
        kind: the kind of the request.
        forget_mask: boolean `[num_items]` over the rows of `data.x`.
        retain_mask: boolean `[num_items]`, the other *training* rows.
        retain_data: shallow copy of `data` without the forgotten rows of `x`, `y`, masks and whatever else runs along
            the items; held-out rows stay.
        request_hash: 16 hex digits of the content: kind, number of items, set of forgotten rows.
    """

    data: Data
    kind: str
    forget_mask: Tensor
    retain_mask: Tensor
    retain_data: Data
    request_hash: str

    forgets: ClassVar[tuple[str, ...]] = ("items",)

    @property
    def num_forget(self) -> int:
        """Forgotten items."""
        return int(self.forget_mask.sum())

    @property
    def num_retain(self) -> int:
        """Remaining training items."""
        return int(self.retain_mask.sum())

    def describe(self) -> str:
        """One line for logs and reports."""
        noun = "item" if self.num_forget == 1 else "items"
        return f"{self.num_forget} {noun} of {self.num_forget + self.num_retain} training items"

    def __repr__(self) -> str:
        """The short text instead of all the tensors."""
        return f"ItemPartition({self.describe()}, request_hash={self.request_hash!r})"


@dataclass(frozen=True, eq=False, repr=False)
class ForgetItems(Request):
    """Forget training rows of `data.x` and `data.y`, where items are independent (images, texts).

    Exactly one of `index`, `mask`, `ratio` and `count` says which.

    Args:
        index: row numbers, `[F]`.
        mask: boolean `[num_items]`.
        ratio: draw `int(ratio * num_training_items)` rows, 0 < ratio < 1.
        count: draw this many rows.
        seed: of the draw; the global random state is left alone.

    Raises:
        EmptyForgetSetError: nothing is named.
        InvalidRequestError: any other wrong argument.
    """

    kind: ClassVar[str] = "items"

    index: Any = None
    _: KW_ONLY
    mask: Any = None
    ratio: float | None = None
    count: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check all that can be checked without the data."""
        the_one_given(self, ("index", "mask", "ratio", "count"))
        check_seed(self.seed)
        check_size(self.ratio, self.count, "item")
        # Copies of our own: the request must not change when the caller's tensor does.
        if self.index is not None:
            object.__setattr__(self, "index", _named_tensor(self.index, "index", "item"))
        if self.mask is not None:
            object.__setattr__(self, "mask", _own_mask(self.mask))

    def resolve(self, data: Data, scores: Any = None) -> ItemPartition:
        """Split the items of `data` into what to forget and what to retain.

        Args:
            data: `x` `[num_items, ...]`, `y` `[num_items, ...]` and, where some rows are held out, `train_mask` (or
                `val_mask` and `test_mask`). Never changed.
            scores: not read.

        Raises:
            EmptyForgetSetError: nothing to forget.
            InvalidRequestError: the request does not fit the data, or would leave no training item.
        """
        train = training_rows(data)
        forget = torch.zeros_like(train)
        forget[self._rows(train)] = True
        if not bool((train & ~forget).any()):
            raise InvalidRequestError(
                f"Expected {self!r} to leave something to retain (got all {int(train.sum())} training items)"
            )
        rows = forget.nonzero().view(1, -1)
        return ItemPartition(
            data=data,
            kind=self.kind,
            forget_mask=forget,
            retain_mask=train & ~forget,
            retain_data=_without_rows(data, forget),
            request_hash=_content_hash(self.kind, forget.numel(), rows),
        )

    def _rows(self, train: Tensor) -> Tensor:
        """Row numbers to forget, checked against the training rows `[num_items]`."""
        candidates = train.nonzero().view(-1)
        if self.ratio is not None or self.count is not None:
            number = self.count if self.count is not None else int(self.ratio * candidates.numel())
            if number == 0:
                raise EmptyForgetSetError(
                    f"Expected a ratio of at least one item (got {self.ratio} of {candidates.numel()} training items)"
                )
            if number > candidates.numel():
                raise InvalidRequestError(
                    f"Expected at most the {candidates.numel()} training items (got a draw of {number})"
                )
            # On the CPU: one seed gives one forget set on every device.
            order = torch.randperm(candidates.numel(), generator=torch.Generator().manual_seed(int(self.seed)))
            return candidates[order[:number].to(candidates.device)]
        if self.mask is not None:
            if self.mask.numel() != train.numel():
                raise InvalidRequestError(f"Expected 'mask' of shape [{train.numel()}] (got [{self.mask.numel()}])")
            rows = self.mask.nonzero().view(-1).to(train.device)
        else:
            rows = self.index.to(train.device)
            outside = rows[(rows < 0) | (rows >= train.numel())]
            if outside.numel():
                raise InvalidRequestError(
                    f"Expected 'index' in [0, {train.numel()}) (got {outside.numel()} outside: {outside[:5].tolist()})"
                )
            named, counts = rows.unique(return_counts=True)
            if named.numel() != rows.numel():
                raise InvalidRequestError(f"Expected each row once (got repeated {named[counts > 1][:5].tolist()})")
        held_out = rows[~train[rows]]
        if held_out.numel():
            raise InvalidRequestError(
                f"Expected training items (got {held_out.numel()} held-out rows: {held_out[:5].tolist()}); "
                "forget sets come from training items only"
            )
        return rows

    def select(self, graph: TrainingGraph, scores: Tensor | None) -> Tensor:
        """Items are no edges: a sum with requests on a graph is refused."""
        raise InvalidRequestError(f"Expected requests on a graph in a sum (got {self!r})")

    def __add__(self, other: Request) -> NoReturn:
        """Not offered: name the rows of both in one request."""
        raise InvalidRequestError(f"Expected one request for all items (got the sum of {self!r} and {other!r})")

    def content(self) -> Hashable:
        """All arguments, named rows sorted."""
        return tuple(_sorted_content(getattr(self, field.name)) for field in fields(self))

    def __repr__(self) -> str:
        """The arguments that were given; of named rows the first few."""
        shown = []
        for name in ("index", "mask", "ratio", "count", "seed"):
            value = getattr(self, name)
            if name == "mask" and value is not None:
                shown.append(f"mask=<{int(value.sum())} of {value.numel()} rows>")
            elif isinstance(value, Tensor):
                shown.append(f"[{', '.join(map(str, value[:3].tolist()))}{', ...' if len(value) > 3 else ''}]")
            elif value not in (None, 0):
                shown.append(f"{name}={value!r}")
        return f"ForgetItems({', '.join(shown)})"


def split_rows(rows: list[Any], num_forget: int) -> ItemPartition:
    """Split rows of token ids, of which the first `num_forget` are to be forgotten, and the others may be none."""
    forget = torch.arange(len(rows)) < num_forget
    ids = forget.nonzero().view(1, -1)
    return ItemPartition(rows, "items", forget, ~forget, rows[num_forget:], _content_hash("items", len(rows), ids))


def training_rows(data: Data) -> Tensor:
    """Which rows of `data.x` may be learned from, boolean `[num_items]`.

    `data.train_mask` says so; without it, the rows that are in neither `val_mask` nor `test_mask`.

    Raises:
        InvalidTypeError: `data` is no `Data`.
        InvalidRequestError: no items with labels, a graph, or masks of another shape.
    """
    if not isinstance(data, Data):
        raise InvalidTypeError(f"Expected a torch_geometric.data.Data (got {type(data).__name__})")
    if any(not isinstance(data.get(name), Tensor) or data[name].dim() == 0 for name in ("x", "y")):
        raise InvalidRequestError(f"Expected data with tensors 'x' and 'y' (got a Data with {sorted(data.keys())})")
    if data.get("edge_index") is not None:
        raise InvalidRequestError("Expected independent items (got a graph: the data has an 'edge_index')")
    num_items = data.x.size(0)
    if data.y.size(0) != num_items:
        raise InvalidRequestError(f"Expected one label for each of {num_items} items (got {data.y.size(0)})")
    masks = {name: data[name] for name in ("train_mask", "val_mask", "test_mask") if data.get(name) is not None}
    for name, mask in masks.items():
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != (num_items,):
            got = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
            raise InvalidRequestError(f"Expected 'data.{name}' to be boolean of shape [{num_items}] (got {got})")
    if "train_mask" in masks:
        return masks["train_mask"].clone()
    train = torch.ones(num_items, dtype=torch.bool, device=data.x.device)
    for mask in masks.values():
        train &= ~mask
    return train


def _own_mask(value: Any) -> Tensor:
    mask = torch.from_numpy(np.array(value)) if not isinstance(value, Tensor) else value.detach().cpu().clone()
    if mask.dtype != torch.bool or mask.dim() != 1:
        raise InvalidRequestError(
            f"Expected 'mask' as boolean of shape [num_items] (got {mask.dtype} {tuple(mask.shape)})"
        )
    if not bool(mask.any()):
        raise EmptyForgetSetError("Expected 'mask' to name at least one item (got none)")
    return mask


def _without_rows(data: Data, forget: Tensor) -> Data:
    """Copy of the data without the forgotten rows, in whatever runs along the items."""
    retain, num_items = copy.copy(data), forget.numel()
    for name in data.keys():  # noqa: SIM118 - iterating a Data yields pairs
        value = data[name]
        if isinstance(value, Tensor | np.ndarray):
            along = value.ndim > 0 and value.shape[0] == num_items
        else:
            along = isinstance(value, list | tuple) and len(value) == num_items
        if along:
            retain[name] = select_entries(value, ~forget, 0)
    if "num_nodes" in data:
        retain.num_nodes = int((~forget).sum())
    return retain
