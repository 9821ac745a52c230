"""Ids of nodes: integers or names, and the row of each."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gunlearn.datasets.text_tables import InputTable, as_numbers, is_missing
from gunlearn.errors import InvalidInputError


@dataclass(frozen=True, eq=False)
class Numbering:
    """Distinct ids in the order of the rows; integers as int64, names as texts."""

    ids: np.ndarray

    @property
    def node_id(self) -> Tensor | list[Any] | None:
        """What `data.node_id` is: `None` where the ids are 0, 1, ..."""
        if self.ids.dtype.kind != "i":
            return self.ids.tolist()
        return None if np.array_equal(self.ids, np.arange(len(self.ids))) else torch.from_numpy(self.ids.copy())

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Return the row of each id `[k]`, -1 where there is none."""
        order = np.argsort(self.ids, kind="stable")
        place = order[np.searchsorted(self.ids, ids, sorter=order).clip(max=len(self.ids) - 1)]
        return np.where(self.ids[place] == ids, place, -1)


def read_ids(table: InputTable, columns: Sequence[int]) -> np.ndarray:
    """Return columns of ids one behind another, `[len(columns) * num_rows]`: int64, or texts where they are names.

    Integers beyond 64 bits and those with leading zeros are names; so are texts. Fewer names than integers are taken
    for mistakes.

    Raises:
        InvalidInputError: missing, negative or fractional ids; the message holds the line.
    """
    values = np.concatenate([table.columns[i] for i in columns])
    missing = np.flatnonzero(is_missing(values))
    if len(missing):
        shown = str(values[missing[0]])
        raise InvalidInputError(f"Expected a node id in {table.at(missing[0] % len(table))} (got {shown!r})")
    if values.dtype.kind in "iu":
        return _checked(values, table)
    if values.dtype.kind not in "OUS":
        raise InvalidInputError(f"Expected integers or names as node ids of {table.source} (got {values.dtype})")
    texts = [str(value) for value in values]
    if re.fullmatch(r"[0-9\n]+", "\n".join(texts)):
        if not any(len(text) > 1 and text[0] == "0" for text in texts):
            return _checked(values, table)
        return np.array(texts, dtype=str)
    whole = np.array([re.fullmatch(r"[+-]?[0-9]+", text) is not None for text in texts])
    if whole.all():
        return _checked(values, table)
    distinct, first = np.unique(texts, return_index=True)
    if 2 * whole[first].sum() >= len(distinct) or as_numbers(values) is not None:
        bad = int(np.flatnonzero(~whole)[0])
        raise InvalidInputError(
            f"Expected an integer node id in {table.at(bad % len(table))} (got {texts[bad]!r}, where most ids are "
            "numbers); ids are all integers or all names"
        )
    unclear = [text for text in distinct if text.lower() == "na"]
    if unclear:
        warnings.warn(
            f"{str(unclear[0])!r} in {table.source} is read as the name of a node; leave out the rows where it says "
            "that an id is missing",
            stacklevel=3,
        )
    return np.array(texts, dtype=str)


def same_kind(*ids: np.ndarray) -> list[np.ndarray]:
    """Return arrays of ids, all as integers or all as texts."""
    if all(array.dtype.kind == "i" for array in ids):
        return list(ids)
    return [array.astype(str) for array in ids]


def of_labels(labels: Sequence[Any], source: str) -> Tensor | list[Any] | None:
    """Return `data.node_id` of nodes with these labels in the order of rows; labels that look alike are refused."""
    texts = [str(label) for label in labels]
    if len(set(texts)) != len(texts):
        raise InvalidInputError(f"Expected nodes that differ as texts in {source} (got some like 1 and '1')")
    if all(re.fullmatch(r"0|[1-9][0-9]{0,17}", text) for text in texts):
        return Numbering(np.array(list(map(int, texts)), dtype=np.int64)).node_id
    return texts


def _checked(values: np.ndarray, table: InputTable) -> np.ndarray:
    integers = [int(value) for value in values] if values.dtype.kind == "O" else values
    low = int(np.argmin(integers)) if values.dtype.kind != "O" else min(range(len(values)), key=integers.__getitem__)
    if integers[low] < 0:
        raise InvalidInputError(f"Expected node ids >= 0 in {table.at(low % len(table))} (got {integers[low]})")
    if max(integers) >= 2**63:
        return np.array([str(value) for value in integers], dtype=str)
    return np.array(integers, dtype=np.int64)
