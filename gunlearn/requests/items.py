"""Requests to forget independent items: rows of an array, named one by one, by class, by a mask, or drawn."""

import copy
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NoReturn

import numpy as np
import torch
from torch import Tensor

from gunlearn.core.detached import detached
from gunlearn.core.digest import content_hash
from gunlearn.errors import EmptyForgetSetError, InvalidRequestError, InvalidTypeError
from gunlearn.requests.base import Request
from gunlearn.requests.entries import select_entries
from gunlearn.requests.ids import RequestByIds, check_unique, skipped, trainable_mask, with_known_arguments
from gunlearn.requests.item_choice import BY_LABEL, checked_labels, rows_of_files, rows_with_label
from gunlearn.requests.names import Names
from gunlearn.requests.partition import ids_hash
from gunlearn.requests.row_numbers import mark_left, warn_of_numbers
from gunlearn.requests.training_graph import TrainingGraph


@dataclass(frozen=True, eq=False)
class ItemPartition:
    """Independent items, split by a request.

    Args:
        data: the caller's own object; never changed.
        kind: the kind of the request.
        forget_mask: boolean `[num_items]` over the rows of `data.x`.
        retain_mask: boolean `[num_items]`, the other *training* rows.
        retain_data: shallow copy of `data` without the forgotten rows of `x`, `y`, masks and all other attributes with
            an entry per item; held-out rows stay.
        request_hash: 16 hex digits of the content (kind, number of items, forgotten rows) under the owner's key.
        skipped: rows that were named twice and skipped, in words.
    """

    data: Any
    kind: str
    forget_mask: Tensor
    retain_mask: Tensor
    retain_data: Any
    request_hash: str
    skipped: str = ""

    forgets: ClassVar[tuple[str, ...]] = ("items",)

    @property
    def num_forget(self) -> int:
        """Number of forgotten items."""
        return int(self.forget_mask.sum())

    @property
    def num_retain(self) -> int:
        """Number of remaining training items."""
        return int(self.retain_mask.sum())

    @property
    def forget_data(self) -> Any:
        """Return a shallow copy of `data` with the forgotten rows alone."""
        return _without_rows(self.data, ~self.forget_mask)

    def describe(self) -> str:
        """Return one line for logs and reports."""
        noun = "item" if self.num_forget == 1 else "items"
        return f"{self.num_forget} {noun} of {self.num_forget + self.num_retain} training items"

    def __repr__(self) -> str:
        return f"ItemPartition({self.describe()}, request_hash={self.request_hash!r})"


@with_known_arguments
@dataclass(frozen=True, eq=False, repr=False)
class ForgetItems(RequestByIds):
    """Forget training rows of `data.x` and `data.y`, where items are independent (images, texts).

    Exactly one of `index`, `mask`, `label`, `labels`, `where`, `ratio` and `count` says which, but that `ratio` or
    `count` beside classes draws among their items. All rows must be training rows.

    Args:
        index: row numbers, `[F]`; or names, texts of `data.item_id` (files of a data set that says them). What a
            request leaves is numbered anew; numbers of it warn.
        mask: boolean `[num_items]`.
        ratio: draw `int(ratio * num_training_items)` rows, 0 < ratio < 1.
        count: draw this many rows.
        seed: of the draw; the global random state does not change.
        missing: `"ignore"` skips rows that are named twice and names that no item has; `"error"` refuses them.
        label: a class: all its training rows. Held-out rows of the class stay, for figures. A number, or a name that
            `data.classes` or the data set has (`classes` of torchvision's).
        labels: several classes.
        where: a function of a class: of each class for which it returns True.

    Raises:
        EmptyForgetSetError: nothing is named.
        InvalidRequestError: any other wrong argument.

    Example:
        >>> ForgetItems(label=3)
        ForgetItems(label=3)
        >>> ForgetItems(labels=[3, 8], count=50, seed=1)
        ForgetItems(count=50, seed=1, labels=(3, 8))
    """

    _: KW_ONLY
    label: int | str | None = None
    labels: Any = None
    where: Callable[[int], bool] | None = None

    kind = "items"
    noun: ClassVar[str] = "item"
    by_id: ClassVar[bool | None] = None  # texts are names, integers row numbers

    def __post_init__(self) -> None:
        given = [name for name in BY_LABEL if getattr(self, name) is not None]
        if not given:
            self.check_arguments(("index", "mask", "ratio", "count"))
            return
        beside = [name for name in ("index", "mask") if getattr(self, name) is not None]
        drawn = [name for name in ("ratio", "count") if getattr(self, name) is not None]
        if len(given) > 1 or beside or len(drawn) > 1:
            raise InvalidRequestError(
                f"Expected one of {', '.join(BY_LABEL)}, alone or with 'ratio' or 'count' (got "
                f"{', '.join([*given, *beside, *drawn])})"
            )
        if drawn or self.missing != "error":
            self.check_arguments(("ratio", "count"))
        object.__setattr__(self, given[0], checked_labels(given[0], getattr(self, given[0])))

    def _rows(self, data: Any, train: Tensor) -> tuple[Tensor, str]:
        """Return the rows that are named or drawn, and which named ones were skipped, in words."""
        if isinstance(self.index, Names):
            rows, missing = rows_of_files(data, self.index, self.missing)
            if self.missing == "error":
                check_unique(rows, self.noun)
            if not rows.numel():
                raise EmptyForgetSetError(f"Expected an item that data.item_id names (got none of {len(self.index)})")
            kept = rows.unique()
            return kept, skipped(len(self.index), self.noun, missing, rows.numel() - kept.numel())
        by_label = [name for name in BY_LABEL if getattr(self, name) is not None]
        candidates = train.nonzero().view(-1)
        if self.index is not None:
            warn_of_numbers(data)
        if by_label:
            candidates = rows_with_label(data, train, by_label[0], getattr(self, by_label[0]))
            if self.ratio is None and self.count is None:
                return candidates, ""
        return self.ids(train.numel(), candidates)

    def resolve(self, data: Any, scores: Any = None) -> ItemPartition:  # type: ignore[override]  # items have no edges
        """Split the items of `data` into what to forget and what to retain; `scores` are not read.

        `data` holds `x` `[num_items, ...]`, `y` `[num_items, ...]` and, where some rows are held out, `train_mask` (or
        `val_mask` and `test_mask`). It is never changed.

        Raises:
            EmptyForgetSetError: nothing to forget.
            InvalidRequestError: the request does not fit the data, or would leave no training item.
            InvalidTypeError: `data` has no `x` and `y`.

        Warns:
            UserWarning: row numbers of data that an earlier request left: they are those of what is left.
        """
        data = detached(data)
        train = training_rows(data)
        rows, told = self._rows(data, train)
        rows = rows.to(train.device)
        held_out = rows[~train[rows]]
        if held_out.numel():
            raise InvalidRequestError(
                f"Expected training items (got {held_out.numel()} held-out rows: {held_out[:5].tolist()}); "
                "forget sets come from training items only"
            )
        forget = torch.zeros_like(train).index_fill(0, rows, True)
        if not bool((train & ~forget).any()):
            raise InvalidRequestError(
                f"Expected {type(self).__name__} to leave something to retain (got all {int(train.sum())} training "
                "items)"
            )
        return ItemPartition(
            data=data,
            kind=self.kind,
            forget_mask=forget,
            retain_mask=train & ~forget,
            retain_data=mark_left(_without_rows(data, forget)),
            request_hash=ids_hash(self.kind, forget.numel(), rows),
            skipped=told,
        )

    def select(self, graph: TrainingGraph, scores: Tensor | None) -> Tensor:
        """Refuse a sum with requests on a graph: items are no edges."""
        raise InvalidRequestError(f"Expected requests on a graph in a sum (got {type(self).__name__})")

    def __add__(self, other: Request) -> NoReturn:
        """Refuse a sum: one request can name all rows."""
        raise InvalidRequestError(f"Expected one request for all items (got a sum with {type(other).__name__})")


def split_rows(rows: list[Any], num_forget: int) -> ItemPartition:
    """Split rows of token ids: the first `num_forget` are forgotten, the others (possibly none) retained.

    The hash is of the forgotten rows' tokens, in any order: their numbers would be the same for all requests of a size.
    """
    forget = torch.arange(len(rows)) < num_forget
    tokens = sorted(content_hash(np.asarray(row["input_ids"], dtype="<i8")) for row in rows[:num_forget])
    digest = ids_hash("rows", len(rows), forget.nonzero().view(-1), "".join(tokens).encode())
    return ItemPartition(rows, "items", forget, ~forget, rows[num_forget:], digest)


def training_rows(data: Any) -> Tensor:
    """Return which rows of `data.x` may be learned from, boolean `[num_items]`; see `trainable_mask`."""
    if not (hasattr(data, "x") and hasattr(data, "y")):
        raise InvalidTypeError(f"Expected a torch_geometric.data.Data (got {type(data).__name__})")
    if not all(isinstance(v, Tensor) or hasattr(v, "dataset") for v in (data.x, data.y)) or not all(
        len(v.shape) for v in (data.x, data.y)
    ):
        raise InvalidRequestError(f"Expected data with tensors 'x' and 'y' (got a Data with {sorted(_names(data))})")
    if getattr(data, "edge_index", None) is not None:
        raise InvalidRequestError("Expected independent items (got a graph: the data has an 'edge_index')")
    num_items = data.x.shape[0]
    if data.y.shape[0] != num_items:
        raise InvalidRequestError(f"Expected one label for each of {num_items} items (got {data.y.shape[0]})")
    return trainable_mask(data, num_items, getattr(data.x, "device", torch.device("cpu")))


def _names(data: Any) -> list[str]:
    return list(data.keys() if hasattr(data, "keys") else vars(data))


def _without_rows(data: Any, forget: Tensor) -> Any:
    """Return a copy of the data without the forgotten rows of all attributes that have an entry per item."""
    retain, num_items = copy.copy(data), forget.numel()
    for name in _names(data):
        value = getattr(data, name)
        sized = isinstance(value, list | tuple) or (isinstance(value, Tensor | np.ndarray) and value.ndim > 0)
        if hasattr(value, "dataset"):  # a column of a data set, whose items are loaded when they are read
            setattr(retain, name, value.select(~forget))
        elif sized and len(value) == num_items:
            setattr(retain, name, select_entries(value, ~forget, 0))
    if "num_nodes" in _names(data):
        retain.num_nodes = int((~forget).sum())
    return retain
