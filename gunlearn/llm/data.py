"""Rows from whatever the caller has, and rows that are both to be forgotten and to be kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from gunlearn.errors import InvalidInputError
from gunlearn.llm.encoding import encode, named_rows
from gunlearn.llm.records import read_records

OVERLAPS = ("error", "drop", "keep")


def as_rows(
    source: Any, tokenizer: Any, of: str = "", **how: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
    """Rows from whatever the caller has.

    Args:
        source: the path of a file of records, records, or rows that already have `input_ids`.
        tokenizer: of transformers.
        of: the part's name, for messages.
        how: arguments of `encode`.

    Returns:
        The rows, and the records they were made of (`None` for rows).

    Raises:
        InvalidInputError: as `read_records` and `encode`, or there is nothing in it.
    """
    named = f" of '{of}'" if of else ""
    records = read_records(source) if isinstance(source, str | PathLike) else [source[i] for i in range(len(source))]
    if not records:
        raise InvalidInputError(f"Expected at least one row{named} (got none)")
    if isinstance(records[0], Mapping) and "input_ids" in records[0]:
        return records, None
    try:
        return encode(records, tokenizer, **how), records
    except InvalidInputError as error:
        raise InvalidInputError(f"{error}{named}") from error


def check_ids(model: Any, parts: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Refuse rows of a tokenizer that is not the model's.

    Args:
        model: a model of transformers.
        parts: rows by name.

    Raises:
        InvalidInputError: a token that the model has no embedding for.
    """
    known = getattr(model.get_input_embeddings(), "num_embeddings", None)
    for name, rows in parts.items():
        most = max(int(max(row["input_ids"])) for row in rows)
        if known is not None and most >= known:
            raise InvalidInputError(
                f"Expected tokens below {known}, which the model has embeddings for (got {most} in '{name}'); "
                "take the model's own tokenizer, or call model.resize_token_embeddings(len(tokenizer))"
            )


def separate(forget: Sequence[Mapping], retain: Sequence[Mapping], overlap: str = "error") -> list[Mapping]:
    """Retained rows, once rows that are also to be forgotten have been dealt with.

    Args:
        forget: rows.
        retain: rows.
        overlap: `"error"` refuses rows that are in both, `"drop"` takes them out of `retain`, `"keep"` lets them be.

    Raises:
        InvalidInputError: rows in both, with their number and where they are; or nothing is left to retain.
    """
    if overlap not in OVERLAPS:
        raise InvalidInputError(f"Expected 'overlap' among {OVERLAPS} (got {overlap!r})")
    tokens = {tuple(map(int, row["input_ids"])) for row in forget}
    both = [i for i, row in enumerate(retain) if tuple(map(int, row["input_ids"])) in tokens]
    if overlap == "keep" or not both:
        return list(retain)
    if overlap == "error":
        raise InvalidInputError(
            f"Expected forget and retain without common rows (got {len(both)} of them, "
            f"{named_rows([i + 1 for i in both])} of retain); overlap='drop' takes them out of retain"
        )
    kept = [row for i, row in enumerate(retain) if i not in set(both)]
    if not kept:
        raise InvalidInputError("Expected rows to retain that are not forgotten (got none)")
    return kept
