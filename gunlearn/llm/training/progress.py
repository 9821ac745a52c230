"""A bar for training runs."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class StepBar(TrainerCallback):
    """Counts steps on standard error, with the loss; nothing is left of it at the end."""

    def __init__(self) -> None:
        """No bar yet."""
        self.bar: tqdm | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar, in the first process alone."""
        hidden = not state.is_local_process_zero
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, disable=hidden, leave=False, unit="step")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """One step further."""
        self.bar.update(1)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the loss."""
        if self.bar is not None and "loss" in (logs or {}):
            self.bar.set_postfix(loss=f"{float(logs['loss']):.4g}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the bar, wherever it stands: an error in training is not followed by `on_train_end`."""
        if self.bar is not None:
            self.bar.close()
