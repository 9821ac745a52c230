"""The plan of a method for language models, and the inputs that it is made from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from gunlearn.losses import Objective


@dataclass(frozen=True)
class Plan:
    """How to train by a method.

    Args:
        objective: the objective to minimise.
        layer: index of the hidden states that losses read, see `CausalLM`.
        forget: rows with marked tokens, in place of the given ones.
        attach: called with the trainer before the first step.
        found: options that the method computed, by name, for the record.
    """

    objective: Objective
    layer: int = -1
    forget: Sequence[Mapping[str, Any]] | None = None
    attach: Callable[[Any], Any] | None = None
    found: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Given:
    """Inputs of a plan: the model before unlearning, its tokenizer, and rows."""

    model: nn.Module | None = None
    tokenizer: Any = None
    forget: Sequence[Mapping[str, Any]] = ()
    retain: Sequence[Mapping[str, Any]] = ()
