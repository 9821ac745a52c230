"""Callbacks that end a run when forgotten rows are as unlikely as unseen ones, or target tokens as a guess."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState

from gunlearn.core.checks import check_integer, check_number
from gunlearn.core.modes import evaluating
from gunlearn.errors import EmptyForgetSetError, InvalidInputError
from gunlearn.llm.data.collate import Collator, PartCollator, Rows, row_batches
from gunlearn.llm.model.causality import check_declared
from gunlearn.llm.model.head import model_device
from gunlearn.llm.model.token_prediction import token_log_probs, total_nll
from gunlearn.llm.training.views import answer_mask


@torch.no_grad()
def mean_nll(model: nn.Module, rows: Rows, collator: Collator, batch_size: int = 16) -> float:
    """Return the negative log-likelihood per labelled token, in nats, over all rows; refuse rows without labels."""
    check_declared(model)
    total, tokens = torch.zeros((), device=model_device(model)), 0
    with evaluating(model):
        for batch in row_batches(model, rows, collator, batch_size):
            nll, count = total_nll(model, batch)
            total, tokens = total + nll, tokens + int(count)
    if not tokens:
        raise EmptyForgetSetError("Expected rows with labelled tokens (got none)")
    return float(total) / tokens


@dataclass(eq=False)
class UntilUnseen(TrainerCallback):
    """End a run once the forgotten rows are no more likely than unseen rows were before unlearning.

    A model that never saw the forgotten texts finds them about as likely as other texts of their kind; if they are much
    less likely, they are conspicuous. Needs no retrained model.

    Args:
        unseen: rows of the same kind that the model was never trained on.
        collator: pads rows.
        every: steps between measurements.
        target: for a run resumed from a checkpoint, the attribute `target` of the first run.

    Raises:
        EmptyForgetSetError: no rows, or none with labels.
        InvalidInputError: `every` below 1; in training, a resumed run without `target`.

    Attributes:
        target: the unseen rows' negative log-likelihood per token, in nats, before the first step.
        reached: step that ended the run, `None` if the target was not reached.
    """

    forget: Rows
    unseen: Rows
    collator: Collator
    every: int = 1
    batch_size: int = 16
    target: float | None = None

    def __post_init__(self) -> None:
        check_integer("every", self.every, minimum=1)
        counts = len(self.forget), len(self.unseen)
        if not all(counts):
            raise EmptyForgetSetError(f"Expected forgotten and unseen rows (got {counts[0]} and {counts[1]})")
        self.given = self.target
        self.reached: int | None = None

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        steps = state.global_step
        if steps == 0:  # a new run of the same callback measures again
            self.target, self.reached = self.given, None
        elif self.target is None:
            raise InvalidInputError(f"Expected 'target' of the first run to resume after {steps} steps (got None)")
        if self.target is None:
            self.target = mean_nll(kwargs["model"], self.unseen, self.collator, self.batch_size)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.every == 0:
            nll = mean_nll(kwargs["model"], self.forget, self.collator, self.batch_size)
            if self.target is not None and nll >= self.target and self.reached is None:
                self.reached, control.should_training_stop = state.global_step, True


@dataclass(eq=False)
class StopBelow(TrainerCallback):
    """End a run once the target tokens are as improbable as a guess.

    Args:
        rows: rows with `target_mask`.
        threshold: mean probability of the target tokens at which to stop, in (0, 1).
        collator: pads rows; `PartCollator()` by default.
        every_steps: steps between measurements; `None` measures after each epoch.

    Raises:
        InvalidInputError: a threshold outside (0, 1), or rows without targets.
    """

    rows: Rows
    threshold: float
    collator: Collator | None = None
    every_steps: int | None = None
    batch_size: int = 8

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, positive=True)
        if self.threshold >= 1:
            raise InvalidInputError(f"Expected 'threshold' below 1 (got {self.threshold!r})")
        if not any(bool(torch.as_tensor(row.get("target_mask", False)).any()) for row in self.rows):
            raise InvalidInputError("Expected rows with a token in 'target_mask' (got none)")

    @torch.no_grad()
    def probability(self, model: nn.Module) -> float:
        """Return the mean probability of the target tokens."""
        with evaluating(model):
            found = [
                token_log_probs(model, batch)[answer_mask(batch, "target")].exp()
                for batch in row_batches(model, self.rows, self.collator or PartCollator(), self.batch_size)
            ]
        return float(torch.cat(found).mean())

    def _stop_if_reached(self, model: nn.Module, control: TrainerControl) -> None:
        if self.probability(model) <= self.threshold:
            control.should_training_stop = True

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.every_steps is not None and state.global_step % self.every_steps == 0:
            self._stop_if_reached(kwargs["model"], control)

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.every_steps is None:
            self._stop_if_reached(kwargs["model"], control)
