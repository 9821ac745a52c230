"""Callbacks that tests give a run: a function at an event, and a run that is killed after a checkpoint."""

import functools
from collections.abc import Callable
from typing import Any

import torch

import gunlearn as gu


class On(gu.Callback):
    """Call a function at an event, with all that the event hands out: `On(epoch_end=lambda state, **_: ...)`."""

    def __init__(self, **functions: Callable[..., None]) -> None:
        for event, function in functions.items():
            setattr(self, f"on_{event}", functools.partial(self._call, function))

    @staticmethod
    def _call(function: Callable[..., None], args: Any, state: Any, control: Any, **more: Any) -> None:
        function(args=args, state=state, control=control, **more)


class Kill(gu.Callback):
    """Ask for a checkpoint after some epochs (or steps), and end the run after a later one; note the epochs that begin.

    Args:
        save_at: when to ask for a checkpoint; several times, or once.
        kill_at: when to end the run; `None` never does.
        count: what the two count: `"epoch"` or `"step"`.
    """

    def __init__(self, save_at: int | tuple[int, ...] = 2, kill_at: int | None = 3, count: str = "epoch") -> None:
        self.save_at, self.kill_at, self.count = save_at, kill_at, count
        self.begun: list[int] = []

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        torch.rand(3)  # what callbacks draw is not the run's

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.begun.append(state.epoch + 1)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.count == "step":
            self._at(state.step, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.count == "epoch":
            self._at(state.epoch, control)

    def _at(self, now: int, control: Any) -> None:
        control.should_save = now in (self.save_at if isinstance(self.save_at, tuple) else (self.save_at,))
        if now == self.kill_at:
            raise KeyboardInterrupt
