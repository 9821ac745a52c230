"""Stop where the forgotten texts are as unlikely as texts the model never saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gunlearn.errors import EmptyForgetSetError, InvalidInputError
from gunlearn.llm.data.collate import PartCollator, batches
from gunlearn.llm.model.causal_lm import CausalLM
from gunlearn.llm.model.head import device_of, evaluating


@torch.no_grad()
def mean_nll(
    model: nn.Module, rows: Sequence[Mapping[str, Any]], collator: PartCollator, batch_size: int = 16
) -> float:
    """Negative log-likelihood per labelled token, in nats, over all rows; the model is left in the modes it was in."""
    task, total, tokens = CausalLM(("log_prob",)), torch.zeros((), device=device_of(model)), 0
    with evaluating(model):
        for batch in batches(model, rows, collator, batch_size):
            p = task.decode(model, None, batch)
            total, tokens = total - p.log_prob.sum(), tokens + int(p.mask.sum())
    if not tokens:
        raise EmptyForgetSetError("Expected rows with labelled tokens (got none)")
    return float(total) / tokens


class UntilUnseen(TrainerCallback):
    """Ends the run once the forgotten rows are no more likely than unseen ones were before unlearning.

    A model that never had the forgotten texts gives them about the likelihood of any text of their kind; what is pushed
    below that has not been forgotten but marked. No retrained model is needed, only texts like the forgotten ones that
    were in no training set.

    Args:
        forget: forgotten rows.
        unseen: rows of the same kind that the model was never trained on.
        collator: pads them.
        every: steps between looks.
        batch_size: rows at a time.
        target: where a run goes on from a checkpoint, the attribute of the first.

    Raises:
        EmptyForgetSetError: no rows, or none with labels.
        InvalidInputError: `every` below 1.

    Attributes:
        target: the unseen rows' negative log-likelihood per token, in nats, before the first step.
        reached: step at which the run was ended, `None` if it was not.
    """

    def __init__(
        self,
        forget: Sequence[Mapping[str, Any]],
        unseen: Sequence[Mapping[str, Any]],
        collator: PartCollator,
        every: int = 1,
        batch_size: int = 16,
        target: float | None = None,
    ) -> None:
        """See the class."""
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise InvalidInputError(f"Expected 'every' to be an integer >= 1 (got {every!r})")
        if not len(forget) or not len(unseen):
            raise EmptyForgetSetError(f"Expected forgotten and unseen rows (got {len(forget)} and {len(unseen)})")
        self.forget, self.unseen, self.collator, self.every = forget, unseen, collator, every
        self.batch_size, self.given, self.target, self.reached = batch_size, target, target, None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        """Ask the model, before it changes, how likely unseen rows are.

        Raises:
            InvalidInputError: a run that goes on from a checkpoint, where it is too late to ask.
        """
        if state.global_step == 0:  # another run of the same callback asks again
            self.target, self.reached = self.given, None
        if self.target is None:
            if state.global_step:
                raise InvalidInputError(
                    f"Expected 'target', the one of the first run, to go on after {state.global_step} steps (got None)"
                )
            self.target = mean_nll(model, self.unseen, self.collator, self.batch_size)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        """Stop where the forgotten rows have come down to that."""
        if state.global_step % self.every == 0:
            nll = mean_nll(model, self.forget, self.collator, self.batch_size)
            if nll >= self.target and self.reached is None:
                self.reached, control.should_training_stop = state.global_step, True
