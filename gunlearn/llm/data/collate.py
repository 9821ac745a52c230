"""From rows of token ids to padded batches, part by part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.errors import InvalidInputError
from gunlearn.llm.model.causal_lm import IGNORE, TextItems
from gunlearn.llm.model.head import device_of

#: What each column is padded with; `input_ids` with the collator's own id.
PADDING = {"attention_mask": 0, "labels": IGNORE, "target_mask": False}


@dataclass(frozen=True)
class PartCollator:
    """Pads rows of `input_ids`, `labels`, `attention_mask` and `target_mask` to the longest, for each part by itself.

    Masks go by length, never by token: padding with the end-of-sequence token does no harm. Columns of other names
    (texts, ids) are left out.

    Args:
        pad_token_id: what `input_ids` are padded with; any valid id, it is never read.
        padding_side: `"right"` or `"left"`; predictions are the same.
        max_length: refuse rows longer than the model's context; `None` does not.

    Raises:
        InvalidInputError: rows without `input_ids` or `labels`, columns of different length, or rows too long.
    """

    pad_token_id: int = 0
    padding_side: str = "right"
    max_length: int | None = None

    def __post_init__(self) -> None:
        """Check the side."""
        if self.padding_side not in ("left", "right"):
            raise InvalidInputError(f"Expected 'padding_side' to be 'left' or 'right' (got {self.padding_side!r})")

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, TextItems] | TextItems:
        """Batch rows, or rows of parts (`{"forget": row, "retain": row}`)."""
        if not rows:
            raise InvalidInputError("Expected at least one row in a batch (got none)")
        if "input_ids" in rows[0]:
            return self.pad(rows)
        return {part: self.pad([row[part] for row in rows]) for part in rows[0]}

    def pad(self, rows: Sequence[Mapping[str, Any]]) -> TextItems:
        """One part's rows as tensors `[batch, tokens]`."""
        rows = [self._whole(row) for row in rows]
        if any(row.keys() != rows[0].keys() for row in rows):
            raise InvalidInputError(
                f"Expected rows of a batch with the same columns (got {sorted({tuple(row) for row in rows})})"
            )
        length = max(2, max(row["input_ids"].numel() for row in rows))
        out = TextItems()
        for name in rows[0]:
            fill = self.pad_token_id if name == "input_ids" else PADDING[name]
            out[name] = torch.stack([self._padded(row[name], length, fill) for row in rows])
        return out

    def _whole(self, row: Mapping[str, Any]) -> dict[str, Tensor]:
        missing = [name for name in ("input_ids", "labels") if name not in row]
        if missing:
            raise InvalidInputError(f"Expected rows with 'input_ids' and 'labels' (got {sorted(row)})")
        dtypes = {"target_mask": torch.bool}
        out = {
            name: torch.as_tensor(row[name], dtype=dtypes.get(name, torch.long))
            for name in ("input_ids", *PADDING)
            if name in row
        }
        out.setdefault("attention_mask", torch.ones_like(out["input_ids"]))
        lengths = {name: value.numel() for name, value in out.items()}
        if len(set(lengths.values())) > 1:
            raise InvalidInputError(f"Expected columns of one length in a row (got {lengths})")
        if self.max_length is not None and lengths["input_ids"] > self.max_length:
            raise InvalidInputError(
                f"Expected at most {self.max_length} tokens, the model's context (got {lengths['input_ids']}); "
                "tokenise with 'max_length', which cuts prompts and keeps answers"
            )
        return out

    def _padded(self, values: Tensor, length: int, fill: int | bool) -> Tensor:
        padding = values.new_full((length - values.numel(),), fill)
        return torch.cat((values, padding) if self.padding_side == "right" else (padding, values))


def collator_of(model: nn.Module, tokenizer: Any = None) -> PartCollator:
    """The collator for a model and its tokenizer: padding id and side, and the longest row the model can read."""
    config = getattr(model, "config", None)
    pad = getattr(tokenizer, "pad_token_id", None)
    side = getattr(tokenizer, "padding_side", None) or "right"
    return PartCollator(0 if pad is None else pad, side, getattr(config, "max_position_embeddings", None))


def batches(
    model: nn.Module, rows: Any, collator: Callable[[Sequence], Mapping[str, Tensor]], batch_size: int
) -> Iterator[dict[str, Tensor]]:
    """Rows in their order, a few at a time, where the model is. No random number is drawn, as a data loader would.

    Args:
        model: a causal language model.
        rows: anything with a length and integer indices.
        collator: makes a batch of rows.
        batch_size: rows at a time.
    """
    device = device_of(model)
    for start in range(0, len(rows), batch_size):
        batch = collator([rows[i] for i in range(start, min(start + batch_size, len(rows)))])
        yield {name: value.to(device) for name, value in batch.items()}
