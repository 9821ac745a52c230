"""What is known of the training that a model came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from gunlearn.training.mean_step import growth_by_memory
from gunlearn.training.optimizer_state import steps_taken
from gunlearn.training.optimizers import goes_on
from gunlearn.training.settled import grows, growth_rate
from gunlearn.training.state_sources import as_training_state
from gunlearn.training.training_state import TrainingState


@dataclass(frozen=True)
class KnownTraining:
    """What is known of a training.

    Attributes:
        state: its state, with checkpoints or without; `None` where only an optimiser is at hand.
        source: what goes on: the state, an optimiser or its `state_dict`; `None` where it has to be estimated.
        total: its optimiser steps.
        growth: how fast the norm of the weights still changed at its end: by a checkpoint
            (`gunlearn.training.settled`), else by what the optimiser remembers (`gunlearn.training.mean_step`).
    """

    state: TrainingState | None
    source: Any
    total: int | None
    growth: float | None

    @classmethod
    def told(cls, training: Any, optimizer: Any, training_steps: int | None, model: nn.Module) -> KnownTraining:
        """Return what the words of `ContinuedTraining` tell of the training of a model.

        Raises:
            InvalidInputError: an optimiser of another model.
        """
        state = as_training_state(training)
        if state is not None:
            growth = growth_rate(state, model)
            if growth is None:
                growth = growth_by_memory(state, model, state.total)
            return cls(state, state, state.total, growth)
        total = training_steps or steps_taken(optimizer)
        if not goes_on(optimizer):
            return cls(None, None, total, None)
        return cls(None, optimizer, total, growth_by_memory(optimizer, model, total))

    @property
    def grows(self) -> bool:
        """Whether the training is known not to have settled."""
        return grows(self.growth)
