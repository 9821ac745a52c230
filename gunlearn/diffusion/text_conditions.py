"""The embeddings that a pipeline's text encoder has of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gunlearn.errors import InvalidInputError


@torch.no_grad()
def embedded_texts(pipeline: Any, texts: Sequence[str], named: bool) -> Tensor:
    """Return the embeddings `[k, num_tokens, dim]` that a pipeline's text encoder has of texts.

    Args:
        pipeline: with `tokenizer` and `text_encoder`.
        texts: of which each is encoded alone.
        named: they name concepts, and may not be empty.

    Raises:
        InvalidInputError: a concept of which the tokenizer knows no token, or that is too long.
    """
    tokenizer, encoder = pipeline.tokenizer, pipeline.text_encoder
    length = min(tokenizer.model_max_length, getattr(encoder.config, "max_position_embeddings", None) or 77)
    for text in texts if named else ():
        ids = tokenizer(text, add_special_tokens=False).input_ids
        known = [i for i in ids if i not in (tokenizer.unk_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id)]
        if not known:
            raise InvalidInputError(
                f"Expected a concept of at least one token that the tokenizer knows (got {text!r}, "
                f"{'which has none' if not ids else 'all of whose tokens are unknown'})"
            )
        if len(tokenizer(text).input_ids) > length:
            raise InvalidInputError(f"Expected a concept of at most {length} tokens (got {text[:60]!r}...)")
    rows = tokenizer(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    # One by one: the same text has the same bits in every call, which is how conditions are compared.
    return torch.cat([encoder(row[None].to(encoder.device))[0].detach() for row in rows.input_ids])
