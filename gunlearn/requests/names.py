"""Names in requests: ids of `data.node_id` in place of row numbers."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gunlearn.errors import EmptyForgetSetError, InvalidRequestError
from gunlearn.requests.graph_tensors import GONE

if TYPE_CHECKING:
    from torch_geometric.data import Data


@dataclass(frozen=True)
class Names:
    """Ids of nodes as texts, `(F,)`, or pairs of them, `(F, 2)`; shown as a count, so that no message names anybody."""

    entries: tuple[Any, ...]
    whole_numbers: bool = False  # integers that `by_id=True` makes ids

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"<{len(self)} by id>"


def read_names(value: Any, name: str, noun: str, by_id: bool | None) -> Names | None:
    """Return the names that a request was given (texts; integers with `by_id=True`), `None` for row numbers.

    Args:
        value: texts `[F]`; for `edge_index` a list of pairs, or an array `[2, F]`.
        name: the argument, in messages.
        noun: what it names, in messages.
        by_id: of the request.

    Raises:
        InvalidRequestError: texts with `by_id=False` or beside integers, or another shape.
    """
    if by_id is not None and not isinstance(by_id, bool):
        raise InvalidRequestError(f"Expected 'by_id' to be True, False or None (got {by_id!r})")
    if not by_id and (isinstance(value, Tensor) or getattr(getattr(value, "dtype", None), "kind", "O") in "biuf"):
        return None  # numbers in any case, and maybe very many
    array, is_list = _as_objects(value), isinstance(value, (list, tuple))
    if array is None or array.size == 0:
        return None
    texts = sum(isinstance(entry, str) for entry in array.flat)
    if not texts and not by_id:
        return None
    if by_id is False:
        raise InvalidRequestError(f"Expected row numbers in '{name}' with by_id=False (got {texts} texts)")
    if texts not in (0, array.size):
        raise InvalidRequestError(
            f"Expected ids as texts or row numbers in '{name}' (got {texts} of {array.size} texts)"
        )
    if not texts and not all(isinstance(e, Integral) and not isinstance(e, (bool, np.bool_)) for e in array.flat):
        raise InvalidRequestError(f"Expected ids as texts or integers in '{name}' with by_id=True (got others)")
    pairs = name == "edge_index"
    if array.ndim != 1 + pairs or (pairs and array.shape[1 if is_list else 0] != 2):
        expected = "a list of pairs of ids" if pairs else f"a list of ids, one per {noun}"
        raise InvalidRequestError(f"Expected '{name}' to be {expected} (got shape {array.shape})")
    if not pairs:
        return Names(tuple(map(str, array.tolist())), not texts)
    rows = array if is_list else array.T
    return Names(tuple((str(u), str(v)) for u, v in rows.tolist()), not texts)


def rows_by_name(data: Data, names: Names, missing: str = "error") -> tuple[Tensor, int]:
    """Return the row numbers of names in `data.node_id`, `[F]`, or `[2, F]` for pairs, and how many were skipped.

    With `missing="ignore"` names that no node has are skipped: a forgotten node has none any more.

    Integers are the row numbers themselves where the data has no `node_id`: its ids are then 0, 1, ...

    Raises:
        EmptyForgetSetError: all names are skipped.
        InvalidRequestError: a name that no node or more than one has, or names without `data.node_id`. Messages say
            where in the request it stands, not the name.
    """
    flat = [_composed(entry) for item in names.entries for entry in ((item,) if isinstance(item, str) else item)]
    found: list[int | None]
    if data.get("node_id") is not None:
        found = list(map(_numbers(data).get, flat))
    elif names.whole_numbers:
        found = list(map(int, flat))
    else:
        raise InvalidRequestError(
            "Expected data with 'node_id' to look ids up in (got none); gu.load keeps the ids of files and graphs, or "
            "set data.node_id to a list of num_nodes texts or integers"
        )
    width = len(flat) // len(names)
    if data.get("node_id") is not None:
        unknown = [(None, "no node")] if missing == "error" else []
        for wrong, why in [*unknown, (-1, "more than one node")]:
            at = list(dict.fromkeys(i // width + 1 for i, row in enumerate(found) if row == wrong))
            if at:
                places = ", ".join(map(str, at[:5])) + (", ..." if len(at) > 5 else "")
                raise InvalidRequestError(
                    f"Expected ids that one node of data.node_id has (got {len(at)} of {len(names)} that {why} has: "
                    f"number {places} of the request)"
                )
    rows = torch.tensor([-1 if row is None else row for row in found], dtype=torch.long).view(-1, width)
    kept = rows[(rows >= 0).all(1)] if missing == "ignore" else rows
    if not len(kept):
        raise EmptyForgetSetError(f"Expected an id that a node of data.node_id has (got none of {len(names)} named)")
    return kept.view(-1) if width == 1 else kept.t().contiguous(), len(names) - len(kept)


def check_numbering(data: Data, rows: Tensor, by_id: bool | None, both: Callable[[Tensor], bool] | None = None) -> None:
    """Refuse integers that are row numbers of some nodes and ids of others, unless `by_id` says which is meant.

    Args:
        data: the graph; without `node_id`, or with one of 0, 1, ..., the two are the same.
        rows: the integers of the request, of any shape.
        by_id: of the request; `False` means row numbers.
        both: whether the request fits the graph as given and with the rows that it gets (those of the ids).
    """
    node_id = data.get("node_id")
    if by_id is not None or node_id is None:
        return
    inside = bool(((rows >= 0) & (rows < int(data.num_nodes or 0))).all())
    flat = rows.flatten().tolist()
    if isinstance(node_id, Tensor) and inside and not bool(torch.isin(rows.cpu(), node_id.cpu()).all()):
        return
    numbers = _numbers(data)
    found = [numbers.get(str(row)) for row in flat]
    if None in found or found == flat:
        return
    as_ids = torch.tensor([-1 if row is None else row for row in found]).view(rows.shape)
    if both is not None and inside and not both(as_ids):
        return
    raise InvalidRequestError(
        "Expected 'by_id' to say what the integers of the request are: by_id=True for ids of data.node_id, by_id=False "
        f"for row numbers (got by_id=None and integers that are ids of some nodes"
        f"{' and the row numbers of others' if inside else ', and not all of them are row numbers'})"
    )


def _numbers(data: Data) -> dict[str, int]:
    """Return the row of each id, -1 where several nodes have it; forgotten nodes have none."""
    node_id, size, gone = data.node_id, int(data.num_nodes or 0), data.get(GONE)
    entries = node_id.tolist() if hasattr(node_id, "tolist") else node_id
    if not isinstance(entries, (list, tuple)) or len(entries) != size or any(isinstance(e, list) for e in entries):
        got = f"{len(entries)} entries" if isinstance(entries, (list, tuple)) else type(node_id).__name__
        raise InvalidRequestError(f"Expected data.node_id to hold one text or integer per node, {size} (got {got})")
    kept = [True] * size if gone is None else (~gone).tolist()
    rows: dict[str, int] = {}
    for row, (entry, there) in enumerate(zip(entries, kept, strict=True)):
        if there and entry is not None:
            name = _composed(str(entry))
            rows[name] = -1 if name in rows else row
    return rows


def _composed(name: str) -> str:
    """Return a name with one code for each letter, as `gunlearn.load` writes it."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _as_objects(value: Any) -> np.ndarray | None:
    """Return texts and integers as an array of objects, where nothing is turned into text; `None` for other things."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    try:
        return np.array(value, dtype=object)
    except (TypeError, ValueError):  # lists of unequal lengths: the reader of row numbers says so
        return None
