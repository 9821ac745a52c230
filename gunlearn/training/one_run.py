"""One run of the training loop: resume, take the steps, finish."""

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from gunlearn.core.atomic import check_writable
from gunlearn.core.modes import set_training
from gunlearn.cost import Stopwatch
from gunlearn.errors import CheckpointError, DivergenceError
from gunlearn.losses import ObjectiveValue
from gunlearn.seed import isolated_rng
from gunlearn.training.arguments import TrainArguments
from gunlearn.training.callbacks import Callback, TrainControl, TrainState, stateful
from gunlearn.training.checkpoint import delete_checkpoint, load_checkpoint, save_checkpoint
from gunlearn.training.held_weights import HeldWeights
from gunlearn.training.optimizer_step import finite_record, summed, take_step
from gunlearn.training.processes import processes

#: Evaluates the objective of one step: in one piece, or in pieces whose values add up to it.
Step = Callable[[], ObjectiveValue | Iterable[ObjectiveValue]]


@dataclass(eq=False)
class LoopRun:
    """One run of the loop; the fields are the arguments of `fit`, and where the run stands."""

    model: nn.Module
    step: Step
    args: TrainArguments
    callbacks: Sequence[Callback]
    validate: Callable[[], float] | None
    stop: Callable[[], bool] | None
    optimizer: Any
    scheduler: Any
    steps_per_epoch: int
    penalty: Callable[[TrainState], None] | None
    parameters: list[nn.Parameter]
    held: HeldWeights | None = None

    def __post_init__(self) -> None:
        args, per_epoch = self.args, self.steps_per_epoch
        steps = args.steps_of(per_epoch)
        self.state = TrainState(max_epochs=-(-steps // per_epoch), max_steps=steps)
        self.control, self.together = TrainControl(), processes()
        self.keeping = stateful(self.callbacks)
        self.best: dict[str, Tensor] | None = None

    def resume(self) -> None:
        """Read the checkpoint, if there is one, and start the clock."""
        folder = self.args.checkpoint_dir
        if folder is not None:
            check_writable(folder)
        saved = None if folder is None else load_checkpoint(folder, self.args.fingerprint)
        if saved is not None:
            kinds, names = [kind for kind, _ in saved["callbacks"]], [type(c).__name__ for c in self.keeping]
            if kinds != names:
                raise CheckpointError(
                    f"Expected the callbacks of the run that wrote the checkpoint in {folder}, {kinds} (got {names}): "
                    "their state is in it"
                )
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            if self.scheduler is not None:
                self.scheduler.load_state_dict(saved["scheduler"])
            self.state, self.best = saved["state"], saved["best"]
            for callback, (_, kept) in zip(self.keeping, saved["callbacks"], strict=True):
                callback.load_state_dict(kept)
            self.state.seconds_before = self.state.seconds
        self.together.check_alike(self.model, self.state.step)
        self.watch, self.first = Stopwatch(self.state.seconds), self.state.step
        if self.state.step or not self.args.keep_gradients:
            self.optimizer.zero_grad(set_to_none=True)

    def train(self) -> None:
        """Take the steps that are left, until one asks for the end."""
        args, state, together = self.args, self.state, self.together
        set_training(self.model)
        self.tell("on_train_begin")
        self.agree()
        hidden = not (args.progress and together.main)
        with tqdm(total=state.max_steps, initial=state.step, disable=hidden, leave=False, unit="step") as bar:
            while state.step < state.max_steps and not self.control.should_training_stop:
                if self.stop is not None and together.agree(self.stop())[0]:
                    state.ended = "target"
                    break
                loss = self.one_step()
                bar.update()
                bar.set_postfix(loss=f"{loss:.4f}")
        state.epoch = -(-state.step // self.steps_per_epoch)  # an unfinished pass counts
        state.ended = state.ended or ("steps" if state.step >= state.max_steps else "callback")

    def one_step(self) -> float:
        """Take a step, and at the end of a pass evaluate and save where that is due; return the loss before it."""
        args, state = self.args, self.state
        if state.step % self.steps_per_epoch == 0:
            self.tell("on_epoch_begin")
        self.tell("on_step_begin")
        set_training(self.model)
        self.together.turn = state.step << 16  # no step uses so many
        record = take_step(self.optimizer, self.gradients, state.step)
        if self.held is not None:
            self.held.restore()
        if self.scheduler is not None:
            self.scheduler.step()
        state.step += 1
        last, epoch = state.step == state.max_steps, -(-state.step // self.steps_per_epoch)
        ended = state.step % self.steps_per_epoch == 0 or last
        state.epoch = epoch if ended else epoch - 1
        state.log_history.append({"epoch": epoch, "step": state.step, **record})
        self.tell("on_step_end")
        if ended and args.eval_every is not None and (epoch % args.eval_every == 0 or last):
            self.evaluate(epoch)
        if ended:
            self.tell("on_epoch_end")
        self.agree()
        state.seconds = self.watch.seconds
        due = (ended and epoch % args.checkpoint_every == 0) or self.control.should_save
        # Not at the end of a run: resumed from there it would continue.
        if args.checkpoint_dir is not None and due and not self.control.should_training_stop:
            self.save(args.checkpoint_dir)
        return record["loss"]

    def gradients(self) -> ObjectiveValue:
        """Compute the gradients of a step; return the objective's value."""
        value = self.together.average(summed(self.step(), backward=True), self.parameters)
        if self.penalty is not None:
            self.penalty(self.state)
        if self.held is not None:
            self.held.clear_gradients()
        if self.args.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.args.max_grad_norm)
        return value

    def evaluate(self, epoch: int) -> None:
        """Compute the validation loss, if there is one, and keep the weights where it is the lowest."""
        if self.validate is None:
            return
        state = self.state
        loss = self.together.agree(_validated(self.model, self.validate))[0]
        state.log_history[-1]["val_loss"] = loss
        if state.best_metric is None or loss < state.best_metric:
            state.best_metric, state.best_epoch = loss, epoch
            self.best = copy.deepcopy(self.model.state_dict()) if self.args.keep == "best" else None
        self.tell("on_evaluate", metrics=state.log_history[-1])

    def save(self, folder: str | Path) -> None:
        """Write a checkpoint."""
        self.control.should_save = False
        with self.watch.paused():
            tensors = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "best": self.best}
            tensors["callbacks"] = [(type(c).__name__, c.state_dict()) for c in self.keeping]
            tensors["scheduler"] = None if self.scheduler is None else self.scheduler.state_dict()
            if self.together.main:
                save_checkpoint(folder, self.args.fingerprint, self.state, tensors)
            self.together.wait()
        self.tell("on_save")

    def finish(self) -> TrainState:
        """Leave the chosen weights in evaluation mode, without gradients; refuse weights that nobody can use."""
        args, state, model = self.args, self.state, self.model
        if args.keep == "best" and self.best is not None:
            model.load_state_dict(self.best)
        self.optimizer.zero_grad(set_to_none=True)  # the last gradient would reveal the forget set
        model.eval()
        for name, parameter in model.named_parameters():
            if not torch.isfinite(parameter).all():
                raise DivergenceError(f"Expected finite parameters (got NaN or infinity in '{name}')")
        if state.step > self.first and self.best is None:  # finite parameters may still be too large to compute with
            with torch.no_grad():
                finite_record(self.together.average(summed(self.step())), state.step)
        state.seconds = self.watch.seconds
        self.tell("on_train_end")
        if args.checkpoint_dir is not None:
            if self.together.main:
                delete_checkpoint(args.checkpoint_dir)
            self.together.wait()
        return state

    def tell(self, event: str, **kwargs: object) -> None:
        """Tell the callbacks; their time and random numbers are not the run's."""
        heard = [(callback, method) for callback in self.callbacks if (method := _own(callback, event)) is not None]
        if not heard:
            return
        self.state.seconds = self.watch.seconds
        kwargs |= {"model": self.model, "optimizer": self.optimizer}
        quiet = all(getattr(callback, "draws_nothing", False) for callback, _ in heard)
        with self.watch.paused(), nullcontext() if quiet else isolated_rng():
            for _, method in heard:
                method(self.args, self.state, self.control, **kwargs)

    def agree(self) -> None:
        """Ask all processes whether to stop, and whether to save."""
        asked = self.together.agree(self.control.should_training_stop, self.control.should_save)
        self.control.should_training_stop, self.control.should_save = map(bool, asked)


def _own(callback: Any, event: str) -> Callable[..., Any] | None:
    """Return a callback's method for an event; `None` where it has none that does anything."""
    method = getattr(callback, event, None)
    return None if getattr(method, "__func__", method) is getattr(Callback, event, None) else method


@torch.no_grad()
def _validated(model: nn.Module, validate: Callable[[], float]) -> float:
    model.eval()
    loss = validate()
    if loss != loss:
        raise DivergenceError("Expected a finite validation loss (got NaN)")
    return loss
