"""Pad rows of token ids to batches, part by part."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.text_items import IGNORE, TextItems
from gunlearn.llm.model.head import context_of, model_device

#: Rows of token ids: `input_ids`, `labels` and further columns.
Rows = Sequence[Mapping[str, Any]]
#: Makes a batch of rows; of rows by part, a batch for each part.
Collator = Callable[[list[Any]], dict[str, Any]]
#: What each column is padded with; `input_ids` with the collator's own id.
PADDING = {"attention_mask": 0, "labels": IGNORE, "target_mask": False}


@dataclass(frozen=True)
class PartCollator:
    """Pad `input_ids`, `labels`, `attention_mask` and `target_mask` to the longest row, for each part by itself.

    Masks follow from lengths, never from tokens, so the end-of-sequence token can pad. Other columns are left out.

    Args:
        pad_token_id: any valid id; no prediction depends on it.
        padding_side: `"right"` or `"left"`; predictions are the same.
        max_length: most tokens of a row, the model's context; `None` refuses no row.

    Raises:
        InvalidInputError: rows without `input_ids` or `labels`, columns of different length, or rows too long.
    """

    pad_token_id: int = 0
    padding_side: str = "right"
    max_length: int | None = None

    def __post_init__(self) -> None:
        if self.padding_side not in ("left", "right"):
            raise InvalidInputError(f"Expected 'padding_side' to be 'left' or 'right' (got {self.padding_side!r})")

    def __call__(self, rows: Rows) -> dict[str, TextItems] | TextItems:
        """Return a batch of rows, or of rows by part (`{"forget": row, "retain": row}`) a batch per part."""
        if not rows:
            raise InvalidInputError("Expected at least one row in a batch (got none)")
        if "input_ids" in rows[0]:
            return self.pad(rows)
        return {part: self.pad([row[part] for row in rows]) for part in rows[0]}

    def pad(self, rows: Rows, marked: bool = True) -> TextItems:
        """Return one part's rows as tensors `[batch, tokens]`, on request without `target_mask`."""
        whole = [self._tensors(row, marked) for row in rows]
        if any(row.keys() != whole[0].keys() for row in whole):
            columns = sorted({tuple(row) for row in whole})
            raise InvalidInputError(f"Expected rows of a batch with the same columns (got {columns})")
        length = max(2, max(row["input_ids"].numel() for row in whole))
        out = TextItems()
        for name in whole[0]:
            fill = self.pad_token_id if name == "input_ids" else PADDING[name]
            out[name] = torch.stack([self._padded(row[name], length, fill) for row in whole])
        return out

    def _tensors(self, row: Mapping[str, Any], marked: bool) -> dict[str, Tensor]:
        if not isinstance(row, Mapping) or not {"input_ids", "labels"} <= row.keys():
            got = sorted(row) if isinstance(row, Mapping) else type(row).__name__
            raise InvalidInputError(f"Expected rows with 'input_ids' and 'labels', as `encode` makes them (got {got})")
        out = {
            name: torch.as_tensor(row[name], dtype=torch.bool if name == "target_mask" else torch.long)
            for name in ("input_ids", *PADDING)
            if name in row and (marked or name != "target_mask")
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
    """Return the collator for a model and its tokenizer: padding id, padding side and the model's context."""
    pad = getattr(tokenizer, "pad_token_id", None)
    side = getattr(tokenizer, "padding_side", None) or "right"
    return PartCollator(0 if pad is None else pad, side, context_of(model))


def row_batch(model: nn.Module, rows: list[Any], collator: Collator) -> dict[str, Tensor]:
    """Return a batch of rows on the model's device."""
    device = model_device(model)
    return {name: value.to(device) for name, value in collator(rows).items()}


def row_batches(model: nn.Module, rows: Any, collator: Collator, batch_size: int) -> Iterator[dict[str, Tensor]]:
    """Yield batches of rows in order, on the model's device; draw no random number, unlike a data loader."""
    for start in range(0, len(rows), batch_size):
        some = [rows[i] for i in range(start, min(start + batch_size, len(rows)))]
        yield row_batch(model, some, collator)
