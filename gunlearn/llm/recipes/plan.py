"""What a method for language models asks of a trainer, and what it may look into."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from gunlearn.losses import Objective


@dataclass(frozen=True)
class Plan:
    """What a method asks of a trainer.

    Args:
        objective: what to minimise.
        layer: whose hidden states losses read, see `CausalLM`.
        forget: rows in place of those given, with tokens marked.
        attach: called with the trainer before the first step.
        found: options that were worked out, by name, for the record.
    """

    objective: Objective
    layer: int = -1
    forget: Sequence[Mapping[str, Any]] | None = None
    attach: Callable[[Any], Any] | None = None
    found: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Given:
    """What a method may look into: the model that knows, its tokenizer, and rows."""

    model: nn.Module | None = None
    tokenizer: Any = None
    forget: Sequence[Mapping[str, Any]] = ()
    retain: Sequence[Mapping[str, Any]] = ()
