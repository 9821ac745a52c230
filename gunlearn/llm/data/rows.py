"""Rows from files, records or rows, and rows that are both to be forgotten and to be retained."""

from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Any

import torch

from gunlearn.core.checks import check_choice
from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.collate import Rows
from gunlearn.llm.data.encoding import encode, named_rows
from gunlearn.llm.data.records import read_records, text_of
from gunlearn.llm.data.text_items import IGNORE


def as_rows(
    source: Any, tokenizer: Any, of: str = "", **how: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
    """Return rows from a file, records or rows, and the records behind them (`None` for rows).

    Args:
        source: the path of a file of records, records, or rows that already have `input_ids` and `labels`.
        tokenizer: a tokenizer of transformers.
        of: the part's name, for messages.
        how: arguments of `encode`.

    Raises:
        InvalidInputError: as `read_records` and `encode`; no sequence, no rows, records mixed with rows, rows without
            tokens or with more or fewer labels than tokens, or no label in any row.
    """
    named = f" of '{of}'" if of else ""
    records = read_records(source) if isinstance(source, str | PathLike) else _listed(source, named)
    if not records:
        raise InvalidInputError(f"Expected at least one row{named} (got none)")
    encoded = [isinstance(record, Mapping) and "input_ids" in record for record in records]
    if any(encoded) and not all(encoded):
        other = encoded.index(not encoded[0]) + 1
        raise InvalidInputError(f"Expected records or rows with 'input_ids' (got both, row {other}{named} is another)")
    try:
        rows = _checked(records) if encoded[0] else encode(records, tokenizer, **how)
    except InvalidInputError as error:
        raise InvalidInputError(f"{error}{named}") from error
    if not any(map(is_labelled, rows)):
        raise InvalidInputError(f"Expected rows with labelled tokens after the first (got none{named})")
    return rows, None if encoded[0] else records


def is_labelled(row: Mapping[str, Any]) -> bool:
    """Return whether any token after the first has a label."""
    return bool((torch.as_tensor(row["labels"])[1:] != IGNORE).any())


def _listed(source: Any, named: str) -> list[Any]:
    if isinstance(source, Mapping) or not (isinstance(source, Iterable) or hasattr(source, "__getitem__")):
        raise InvalidInputError(f"Expected a path or a sequence of rows (got {type(source).__name__}{named})")
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return [source[i] for i in range(len(source))]
    return list(source)


def _checked(rows: list[Any]) -> list[Any]:
    for i, row in enumerate(rows, 1):
        if "labels" not in row:
            raise InvalidInputError(f"Expected rows with 'input_ids' and 'labels' (got {sorted(row)} in row {i})")
        tokens, labels = len(row["input_ids"]), len(row["labels"])
        if not tokens or tokens != labels:
            raise InvalidInputError(f"Expected tokens and as many labels (got {tokens} and {labels} in row {i})")
    return rows


def _compared(row: Mapping[str, Any], record: Mapping[str, Any] | None, tokenizer: Any) -> set[Any]:
    """Return the values to compare a row by: its tokens, and its texts in lower case with single blanks."""
    tokens, texts = tuple(map(int, row["input_ids"])), []
    if tokenizer is not None:
        # Other special tokens, such as the one for unknown words, distinguish rows.
        around = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
        texts.append(tokenizer.decode([token for token in tokens if token not in around]))
    if record is not None:
        texts.append(text_of(record, system=False))
    return {tokens, *(" ".join(text.lower().split()) for text in texts)} - {""}


def check_ids(model: Any, parts: Mapping[str, Rows]) -> None:
    """Refuse rows (by part) with a token that the model has no embedding for."""
    known = getattr(model.get_input_embeddings(), "num_embeddings", None)
    for name, rows in parts.items():
        most = max(int(max(row["input_ids"])) for row in rows)
        if known is not None and most >= known:
            raise InvalidInputError(
                f"Expected tokens below {known}, which the model has embeddings for (got {most} in '{name}'); "
                "take the model's own tokenizer, or call model.resize_token_embeddings(len(tokenizer))"
            )


def separate(
    forget: Rows,
    retain: Rows,
    overlap: str = "error",
    tokenizer: Any = None,
    records: tuple[Rows | None, Rows | None] = (None, None),
) -> list[Any]:
    """Return the rows to retain, without those that are also to be forgotten.

    Rows are equal if they have the same tokens or the same text: decoded, or of their records, whatever the template.
    Case and blanks do not count. Does not find the same fact in other words, order or punctuation, or a row inside
    another one.

    Args:
        forget: rows to forget.
        retain: rows to retain.
        overlap: for rows in both, `"error"` raises, `"drop"` takes them out of `retain`, and `"keep"` keeps them.
        tokenizer: decodes rows; without one, only tokens and records are compared.
        records: the records of both sets of rows, `None` where there are none.

    Raises:
        InvalidInputError: rows in both (the message counts and names them), or no row left to retain.
    """
    check_choice("overlap", overlap, ("error", "drop", "keep"))
    forgotten, retained = (
        [_compared(row, of[i] if of else None, tokenizer) for i, row in enumerate(rows)]
        for rows, of in zip((forget, retain), records, strict=True)
    )
    known = set().union(*forgotten)
    both = [i for i, found in enumerate(retained) if not known.isdisjoint(found)]
    if overlap == "keep" or not both:
        return list(retain)
    if overlap == "error":
        raise InvalidInputError(
            f"Expected forget and retain without common rows (got {len(both)} of them, "
            f"{named_rows([i + 1 for i in both])} of retain); overlap='drop' takes them out of retain"
        )
    kept = [row for row, found in zip(retain, retained, strict=True) if known.isdisjoint(found)]
    if not kept:
        raise InvalidInputError("Expected rows to retain that are not forgotten (got none)")
    return kept
