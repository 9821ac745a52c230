"""Rows as the records of differential privacy: units, fingerprints, what a request takes away."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from gunlearn.errors import EmptyForgetSetError, InvalidInputError, InvalidRequestError

#: Fingerprints of the rows of each record, by the record's own fingerprint.
Ledger = dict[str, list[str]]


def units(rows: Sequence[Mapping[str, Any]], record: str) -> list[list[int]]:
    """Row numbers of each record: every row by itself (`"row"`), or those with one value in the column `record`.

    Raises:
        InvalidInputError: no rows, or one lacks the column.
    """
    if len(rows) == 0:
        raise InvalidInputError("Expected rows to train on (got none)")
    if record == "row":
        return [[i] for i in range(len(rows))]
    groups: dict[Any, list[int]] = {}
    for i in range(len(rows)):
        if record not in rows[i]:
            raise InvalidInputError(f"Expected rows with the column '{record}' (got {sorted(rows[i])} in row {i})")
        groups.setdefault(rows[i][record], []).append(i)
    return list(groups.values())


def ledger_of(rows: Sequence[Mapping[str, Any]], record: str) -> Ledger:
    """Fingerprints of all rows, by record. They tell who is in the data: keep them as private as the rows."""
    ledger: Ledger = {}
    for unit in units(rows, record):
        prints = [fingerprint(rows[i]) for i in unit]
        name = prints[0] if record == "row" else _digest(repr(rows[unit[0]][record]))
        ledger.setdefault(name, []).extend(prints)
    return ledger


def most_copies(ledger: Ledger) -> int:
    """How often the commonest row occurs."""
    return max(Counter(p for prints in ledger.values() for p in prints).values())


def fingerprint(row: Mapping[str, Any]) -> str:
    """Digest of a row's tokens and labels."""
    return _digest(repr([[int(v) for v in row[name]] for name in ("input_ids", "labels")]))


def records_changed(before: Ledger, after: Ledger, record: str) -> int:
    """Records by which the rows that stay differ from the training rows.

    A record that loses some of its rows counts twice: one record less, and another one more.

    Raises:
        InvalidRequestError: rows stay that were never trained on.
        EmptyForgetSetError: all rows stay.
    """
    have, keep = (Counter(p for prints in ledger.values() for p in prints) for ledger in (before, after))
    strangers = (keep - have).total()
    if strangers or not after.keys() <= before.keys():
        raise InvalidRequestError(
            f"Expected the rows that stay to be among the training rows (got {max(strangers, 1)} that are not)"
        )
    if keep == have:
        raise EmptyForgetSetError("Expected rows to forget (got all training rows among those that stay)")
    if record == "row":
        return (have - keep).total()
    return sum(
        0 if Counter(prints) == Counter(after.get(name, ())) else 2 if name in after else 1
        for name, prints in before.items()
    )


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of all weights and buffers by name: models of equal digest compute the same."""
    digest = hashlib.sha256()
    for name, value in sorted(_tensors(model)):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    return ((name, value) for name, value in model.state_dict().items() if isinstance(value, torch.Tensor))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
