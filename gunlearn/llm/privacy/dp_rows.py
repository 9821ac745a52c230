"""Records of differential privacy: their rows, fingerprints, and the number that a request changes."""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from gunlearn.core.digest import content_hash
from gunlearn.errors import EmptyForgetSetError, InvalidInputError, InvalidRequestError
from gunlearn.llm.data.collate import Rows

#: Fingerprints of the rows of each record, by the record's own fingerprint.
Ledger = dict[str, list[str]]


def units(rows: Rows, record: str) -> list[list[int]]:
    """Return the row indices of each record: single rows (`"row"`), or rows of one value in the column `record`."""
    if len(rows) == 0:
        raise InvalidInputError("Expected rows to train on (got none)")
    if record == "row":
        return [[i] for i in range(len(rows))]
    groups: dict[str | int | bool, list[int]] = {}
    for i in range(len(rows)):
        groups.setdefault(name_of(rows[i], record), []).append(i)
    return list(groups.values())


def name_of(row: Mapping[str, Any], record: str) -> str | int | bool:
    """Return the name of a row's record as a plain value: equal tensors would be different keys."""
    if record not in row:
        raise InvalidInputError(f"Expected rows with the column '{record}' (got {sorted(row)})")
    value = row[record]
    if isinstance(value, (torch.Tensor, np.generic, np.ndarray)) and math.prod(value.shape) == 1:
        value = value.item()
    if not isinstance(value, (str, int)):
        raise InvalidInputError(f"Expected a string or integer that names the record in '{record}' (got {value!r:.80})")
    return value


def ledger_of(rows: Rows, record: str) -> Ledger:
    """Return the fingerprints of all rows, by record. Keep them as private as the rows: they reveal members."""
    ledger: Ledger = {}
    for unit in units(rows, record):
        prints = [fingerprint(rows[i]) for i in unit]
        name = prints[0] if record == "row" else _digest(repr(name_of(rows[unit[0]], record)))
        ledger.setdefault(name, []).extend(prints)
    return ledger


def most_copies(ledger: Ledger) -> int:
    """Return how often the commonest row occurs."""
    return max(_counts(ledger).values())


def _counts(ledger: Ledger) -> Counter[str]:
    return Counter(p for prints in ledger.values() for p in prints)


def fingerprint(row: Mapping[str, Any]) -> str:
    """Return a digest of a row's tokens and labels."""
    return _digest(repr([[int(v) for v in row[name]] for name in ("input_ids", "labels")]))


def records_changed(before: Ledger, after: Ledger, record: str) -> int:
    """Return the number of records by which the rows that stay differ from the training rows.

    A record that loses some of its rows counts twice: as one removed and one added. Refuses new rows and copies of
    forgotten ones among the rows that stay, and a request in which all rows stay.
    """
    have, keep = map(_counts, (before, after))
    strangers = (keep - have).total()
    if strangers or not after.keys() <= before.keys():
        count = max(strangers, 1)
        raise InvalidRequestError(f"Expected only training rows among those that stay (got {count} that are not)")
    if keep == have:
        raise EmptyForgetSetError("Expected rows to forget (got all training rows among those that stay)")
    lost = {name: Counter(prints) - Counter(after.get(name, ())) for name, prints in before.items()}
    gone = sum(lost.values(), Counter())
    copies = sum(count for mark, count in gone.items() if mark in keep)
    if copies:
        raise InvalidRequestError(
            f"Expected no copy of a forgotten row among the rows that stay (got {copies} forgotten rows with one); "
            "forget all copies"
        )
    if record == "row":
        return gone.total()
    return sum(2 if name in after else 1 for name, prints in lost.items() if prints)


def weights_hash(model: nn.Module) -> str:
    """Return the `content_hash` of all saved weights and buffers by name: models of equal hash compute the same."""
    return content_hash(dict(sorted(model.state_dict().items())))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
