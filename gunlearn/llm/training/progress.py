"""A progress bar for training runs."""

from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerState


class StepBar(TrainerCallback):
    """Count steps on standard error of the first process, with the loss; `close` removes the bar."""

    bar: tqdm | None = None

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        hidden = not state.is_local_process_zero
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, disable=hidden, leave=False, unit="step")

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(1)

    def on_log(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        logs = kwargs.get("logs") or {}
        if self.bar is not None and "loss" in logs:
            self.bar.set_postfix(loss=f"{float(logs['loss']):.4g}")

    def close(self) -> None:
        """Close the bar, also after an error, when transformers does not call `on_train_end`."""
        if self.bar is not None:
            self.bar.close()
