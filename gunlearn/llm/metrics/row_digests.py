"""Digests by which logs tell rows, tokenizers and models apart."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from accelerate.utils import align_module_device
from torch import nn

from gunlearn.core.digest import content_hash
from gunlearn.core.owner_key import keyed_hash
from gunlearn.errors import InvalidInputError
from gunlearn.llm.model.head import output_head, without_peft

_PURPOSE = "row of an evaluation"


def row_digest(row: Mapping[str, Any]) -> str:
    """Return 16 hex digits of a row's tokens and labels, under the owner's key: nobody else can try out a guess."""
    columns = [[int(i) for i in row[name]] for name in ("input_ids", "labels")]
    return keyed_hash(repr(columns).encode(), _PURPOSE)


def row_digests(row: Mapping[str, Any]) -> dict[str, str]:
    """Return `digest`, a row's `row_digest`, and `others`: that of its wrong, other right and offered answers."""
    given = {name: row[name] for name in ("paraphrased", "perturbed", "choices") if name in row}
    others = {name: row_digest(v) if isinstance(v, Mapping) else [*map(row_digest, v)] for name, v in given.items()}
    digests = {"digest": row_digest(row)}
    return digests | {"others": keyed_hash(repr(others).encode(), _PURPOSE)} if others else digests


def identity_of(*parts: Any) -> str:
    """Return a digest of all that an evaluation depends on, under the owner's key."""
    return keyed_hash(repr(parts).encode(), f"{_PURPOSE}: identity", 32)


def tokenizer_digest(tokenizer: Any) -> str:
    """Return 16 hex digits of a tokenizer's vocabulary and chat template."""
    template = getattr(tokenizer, "chat_template", None)
    content = [sorted(tokenizer.get_vocab().items()), template, tokenizer.eos_token_id]
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def weights_digest(model: nn.Module) -> str:
    """Return 16 hex digits of a model's weights, wherever they are: the same for offloaded ones.

    Raises:
        InvalidInputError: weights that are neither loaded nor offloaded by accelerate.
    """
    modules = dict(model.named_modules())
    hashes = []
    for name, value in model.state_dict().items():
        if isinstance(value, torch.Tensor) and value.is_meta:
            owner, _, leaf = name.rpartition(".")
            if not hasattr(modules[owner], "_hf_hook"):
                raise InvalidInputError(f"Expected weights (got none for '{name}', on the device meta)")
            with align_module_device(modules[owner], torch.device("cpu")):
                hashes.append((name, content_hash(getattr(modules[owner], leaf).detach())))
        else:
            hashes.append((name, content_hash(value)))
    return content_hash(hashes)[:16]


def vocabulary_of(model: nn.Module) -> int | None:
    """Return the number of tokens that a model's head predicts; `None` where it names no head."""
    weight = getattr(output_head(model), "weight", None)
    config = getattr(without_peft(model), "config", None)
    found = getattr(output_head(model), "out_features", None) or getattr(config, "vocab_size", None)
    return int(found) if found else None if weight is None else int(weight.shape[0])
