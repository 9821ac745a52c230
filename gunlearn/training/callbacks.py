"""Callbacks of the training loop, under the names (and call signature) of transformers' `TrainerCallback`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gunlearn.errors import InvalidInputError, InvalidTypeError


@dataclass
class TrainState:
    """Where a run stands; saved with every checkpoint.

    Attributes:
        epoch: passes done; the pass in which the run ends counts.
        step: optimiser steps done; a pass that reads everything at once is one step.
        log_history: one record per step: `epoch`, `step`, `loss`, one value per loss term, and values of evaluations.
        best_metric: lowest value of the selection metric so far; `best_epoch` is its pass.
        seconds: wall time of the steps and of evaluations that choose a model, in seconds.
        seconds_before: the share of `seconds` before the run was resumed.
        ended: why the loop ended, `"steps"` (all taken), `"target"` or `"callback"`; empty before, and without a loop.
    """

    epoch: int = 0
    max_epochs: int = 0
    step: int = 0
    max_steps: int = 0
    log_history: list[dict[str, float]] = field(default_factory=list)
    best_metric: float | None = None
    best_epoch: int | None = None
    seconds: float = 0.0
    seconds_before: float = 0.0
    ended: str = ""


@dataclass
class TrainControl:
    """What a callback may ask of the loop."""

    should_training_stop: bool = False
    should_save: bool = False


def check_callbacks(callbacks: Any) -> None:
    """Refuse what hears no event."""
    if not isinstance(callbacks, Sequence):
        raise InvalidTypeError(f"Expected 'callbacks' to be a list of callbacks (got {type(callbacks).__name__})")
    for callback in callbacks:
        if isinstance(callback, type) or not any(name.startswith("on_") for name in dir(callback)):
            raise InvalidTypeError(f"Expected callbacks with methods such as 'on_epoch_end' (got {callback!r})")


class Callback:
    """Does nothing at every event; override what you need.

    Each method is called as `callback.on_...(args, state, control, model=model, **kwargs)` with the loop's arguments
    and this module's `TrainState` and `TrainControl`. The method is not charged for a callback's time, and random
    numbers drawn in callbacks do not change the run. An object of any class with some of these methods will do.

    Attributes:
        draws_nothing: its methods draw no random numbers, so the loop need not save and restore their state.
    """

    draws_nothing = False

    def on_train_begin(self, args: Any, state: TrainState, control: TrainControl, **kwargs: Any) -> None:
        """Before the first epoch."""

    def on_epoch_begin(self, args: Any, state: TrainState, control: TrainControl, **kwargs: Any) -> None:
        """Before each epoch."""

    def on_step_begin(self, args: Any, state: TrainState, control: TrainControl, **kwargs: Any) -> None:
        """Before each optimiser step."""

    def on_step_end(self, args: Any, state: TrainState, control: TrainControl, **kwargs: Any) -> None:
        """After each optimiser step."""

    def on_epoch_end(self, args: Any, state: TrainState, control: TrainControl, **kwargs: Any) -> None:
        """After each epoch, its record in `state.log_history[-1]`."""

    def on_evaluate(self, args: Any, state: TrainState, control: TrainControl, **kwargs: Any) -> None:
        """After an evaluation on validation items; its figures are in `kwargs["metrics"]`."""

    def on_save(self, args: Any, state: TrainState, control: TrainControl, **kwargs: Any) -> None:
        """After a checkpoint was written."""

    def on_train_end(self, args: Any, state: TrainState, control: TrainControl, **kwargs: Any) -> None:
        """After the last epoch."""


class StatefulCallback(Callback):
    """A callback whose state is saved in checkpoints and restored on resume."""

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; called before `on_train_begin`."""


def stateful(callbacks: Sequence[Any]) -> list[StatefulCallback]:
    """Return the callbacks whose state is saved, those that another one calls (its `callbacks`) included."""
    found: list[StatefulCallback] = []
    for callback in callbacks:
        if isinstance(callback, StatefulCallback):
            found.append(callback)
        inner = getattr(callback, "callbacks", ())
        found += stateful(inner) if isinstance(inner, list | tuple) else []
    return found


class EarlyStopping(Callback):
    """Stop when the validation loss has not improved by more than `min_delta` for `patience` evaluations."""

    def __init__(self, patience: int = 5, min_delta: float = 0.0) -> None:
        if patience < 1:
            raise InvalidInputError(f"Expected 'patience' of at least 1 (got {patience})")
        self.patience, self.min_delta = patience, min_delta

    def on_evaluate(self, args: Any, state: TrainState, control: TrainControl, **kwargs: Any) -> None:
        losses = [record["val_loss"] for record in state.log_history if "val_loss" in record]
        best, waited = float("inf"), 0
        for loss in losses:
            best, waited = (loss, 0) if loss < best - self.min_delta else (best, waited + 1)
        control.should_training_stop |= waited >= self.patience
