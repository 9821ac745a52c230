"""Causal language modelling as a task, trained by a transformers Trainer unless told otherwise."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from gunlearn.errors import InvalidInputError
from gunlearn.llm.model.token_prediction import TokenPrediction
from gunlearn.llm.training.backend import TrainerBackend


@dataclass(eq=False, repr=False)
class CausalLM(TokenPrediction):
    """Predict each token from those before it; an item is a sequence. See `TokenPrediction` for the other arguments.

    Args:
        backend: `"trainer"`, a transformers Trainer with default settings (for methods that are an objective over the
            forgotten rows; the package's own loop runs others), a `TrainerBackend`, or `"loop"`.

    Raises:
        InvalidInputError: unknown fields or backend.
    """

    backend: Any = "trainer"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.backend, str) and self.backend not in ("trainer", "loop"):
            raise InvalidInputError(f"Expected 'backend' to be 'trainer', 'loop' or an object (got {self.backend!r})")

    def runner(self, method: Any) -> Any | None:
        """Return the backend's function that trains by a method, `None` for methods that it does not run."""
        if self.backend == "loop":
            return None
        backend = TrainerBackend() if self.backend == "trainer" else self.backend
        return backend.run if backend.runs(method) else None

    def adapts(self, model: nn.Module) -> bool:
        return super().adapts(model) or getattr(self.backend, "peft", None) is not None
