"""THE training loop: base models, retraining and every optimised method run through `fit`."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from gunlearn.core.checks import check_integer
from gunlearn.cost import Stopwatch
from gunlearn.errors import CheckpointError, DivergenceError, InvalidInputError, UnsupportedModelError
from gunlearn.losses import ObjectiveValue
from gunlearn.seed import isolated_rng
from gunlearn.training.callbacks import Callback, TrainControl, TrainState, stateful
from gunlearn.training.checkpoint import delete_checkpoint, load_checkpoint, save_checkpoint
from gunlearn.training.optimizers import OptimizerSpec, SchedulerSpec, make_optimizer, make_scheduler
from gunlearn.training.processes import processes


@dataclass(frozen=True)
class TrainArguments:
    """Settings of one run of the loop.

    Args:
        epochs: passes over the items; without `batch_size` a pass is one optimiser step.
        lr: learning rate.
        weight_decay: the optimiser's own; an L2 penalty for Adam and SGD.
        max_grad_norm: clip the gradient's norm; `None` does not clip.
        eval_every: epochs between evaluations on validation items; `None` never evaluates.
        keep: `"last"` epoch or `"best"` on the validation loss.
        progress: show a progress bar.
        checkpoint_dir: folder to write checkpoints to and to resume from.
        checkpoint_every: epochs between checkpoints.
        keep_gradients: the first step adds the gradients that the parameters hold (a quirk of a paper mode).
        fingerprint: names the run; a checkpoint of another run is refused.
        batch_size: items of each part per step; `None` reads them all.
        sampler: what the model reads for a batch, see `GradientMethod`.
        num_neighbors: neighbours per layer for `sampler="neighbor"`.
        steps: optimiser steps, in place of `epochs`.
    """

    epochs: int
    lr: float = 1e-3
    weight_decay: float = 0.0
    max_grad_norm: float | None = None
    eval_every: int | None = None
    keep: str = "last"
    progress: bool = False
    checkpoint_dir: str | Path | None = None
    checkpoint_every: int = 50
    keep_gradients: bool = False
    fingerprint: str = ""
    batch_size: int | None = None
    sampler: str = "k_hop"
    num_neighbors: tuple[int, ...] | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        # In this form NaN is refused as well.
        if not (0 < self.lr < math.inf and 0 <= self.weight_decay < math.inf):
            raise InvalidInputError(f"Expected lr > 0 and weight_decay >= 0 (got {self.lr} and {self.weight_decay})")
        for name, value in (("epochs", self.epochs), ("steps", 0 if self.steps is None else self.steps)):
            check_integer(name, value, minimum=0)
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:  # a negative norm would flip gradients
            raise InvalidInputError(f"Expected 'max_grad_norm' > 0 or None (got {self.max_grad_norm})")
        if self.keep not in ("last", "best"):
            raise InvalidInputError(f"Expected 'keep' to be 'last' or 'best' (got '{self.keep}')")
        for name in ("eval_every", "checkpoint_every"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InvalidInputError(f"Expected '{name}' of at least 1 (got {getattr(self, name)})")


#: Evaluates the objective of one step: in one piece, or in pieces whose values add up to it.
Step = Callable[[], ObjectiveValue | Iterable[ObjectiveValue]]


def fit(
    model: nn.Module,
    step: Step,
    args: TrainArguments,
    callbacks: Sequence[Callback] = (),
    validate: Callable[[], float] | None = None,
    stop: Callable[[], bool] | None = None,
    *,
    optimizer: OptimizerSpec = "adam",
    optimizer_options: Mapping[str, Any] | None = None,
    scheduler: SchedulerSpec | None = None,
    scheduler_options: Mapping[str, Any] | None = None,
    steps_per_epoch: int = 1,
    penalty: Callable[[], None] | None = None,
) -> TrainState:
    """Minimise what `step` returns over the parameters of `model`, in place; return the final state.

    On several processes (`gunlearn.training.processes`) `step` evaluates this process's share; the main one decides
    when to stop, writes checkpoints and shows the progress bar.

    Args:
        model: the module to train; `step` closes over it.
        step: evaluates the objective of one step; gradients of several values are accumulated.
        args: settings.
        callbacks: called at each event that they have a method for, in order; their time and random numbers are not the
            run's; the state of a `StatefulCallback` is checkpointed.
        validate: loss on validation items, in nats; needed by `eval_every` and `keep="best"`.
        stop: called before each step; `True` ends the run.
        optimizer: a name of `torch.optim` (`"adam"`, `"SGD"`, ...), or a function from parameters to an optimiser.
        optimizer_options: further arguments of the named optimiser.
        scheduler: a name of `torch.optim.lr_scheduler`, or a function from the optimiser to one; stepped at each step.
        scheduler_options: arguments of the named scheduler.
        steps_per_epoch: optimiser steps of one pass over the items.
        penalty: called after each step's backward pass, to add to the gradients.

    Raises:
        DivergenceError: the loss or a parameter is NaN or infinite.
        CheckpointError: `args.checkpoint_dir` holds a damaged checkpoint, or that of another run or other callbacks.
    """
    if args.keep == "best" and (validate is None or args.eval_every is None):
        raise InvalidInputError("Expected validation items and 'eval_every' for keep='best' (got none)")
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise InvalidInputError("Expected a model with trainable parameters (got none that require grad)")
    stepper = make_optimizer(optimizer, parameters, args.lr, args.weight_decay, optimizer_options)
    schedule = make_scheduler(scheduler, stepper, scheduler_options)
    max_steps = args.epochs * steps_per_epoch if args.steps is None else args.steps
    state = TrainState(max_epochs=-(-max_steps // steps_per_epoch), max_steps=max_steps)
    control, best = TrainControl(), None
    keeping = stateful(callbacks)
    saved = None if args.checkpoint_dir is None else load_checkpoint(args.checkpoint_dir, args.fingerprint)
    if saved is not None:
        kinds = [type(callback).__name__ for callback in keeping]
        if [kind for kind, _ in saved["callbacks"]] != kinds:
            raise CheckpointError(
                f"Expected the callbacks of the run that wrote the checkpoint in {args.checkpoint_dir}, "
                f"{[kind for kind, _ in saved['callbacks']]} (got {kinds}): their state is in it"
            )
        model.load_state_dict(saved["model"])
        stepper.load_state_dict(saved["optimizer"])
        if schedule is not None:
            schedule.load_state_dict(saved["scheduler"])
        state, best = saved["state"], saved["best"]
        for callback, (_, kept) in zip(keeping, saved["callbacks"], strict=True):
            callback.load_state_dict(kept)
        state.seconds_before = state.seconds
    together = processes()
    together.check_alike(model, state.step)
    watch, first = Stopwatch(state.seconds), state.step
    if state.step or not args.keep_gradients:
        stepper.zero_grad(set_to_none=True)

    def tell(event: str, **kwargs: object) -> None:
        if callbacks:
            state.seconds = watch.seconds
            with watch.paused(), isolated_rng():
                for callback in callbacks:
                    method = getattr(callback, event, None)
                    if method is not None:
                        method(args, state, control, model=model, optimizer=stepper, **kwargs)

    def agree() -> None:
        asked = together.agree(control.should_training_stop, control.should_save)
        control.should_training_stop, control.should_save = map(bool, asked)

    def gradients() -> ObjectiveValue:
        value = together.average(_total(step(), backward=True), parameters)
        if penalty is not None:
            penalty()
        if args.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(parameters, args.max_grad_norm)
        return value

    model.train()
    tell("on_train_begin")
    agree()
    hidden = not (args.progress and together.main)
    with tqdm(total=max_steps, initial=state.step, disable=hidden, leave=False, unit="step") as bar:
        while state.step < max_steps and not control.should_training_stop:
            if stop is not None and together.agree(stop())[0]:
                state.ended = "target"
                break
            if state.step % steps_per_epoch == 0:
                tell("on_epoch_begin")
            tell("on_step_begin")
            model.train()
            together.turn = state.step << 16  # no step uses so many
            record = _step(stepper, gradients, state.step)
            if schedule is not None:
                schedule.step()
            state.step += 1
            last, epoch = state.step == max_steps, -(-state.step // steps_per_epoch)
            ended = state.step % steps_per_epoch == 0 or last
            state.epoch = epoch if ended else epoch - 1
            state.log_history.append({"epoch": epoch, "step": state.step, **record})
            tell("on_step_end")
            due = ended and args.eval_every is not None and (epoch % args.eval_every == 0 or last)
            if validate is not None and due:
                loss = together.agree(_validated(model, validate))[0]
                state.log_history[-1]["val_loss"] = loss
                if state.best_metric is None or loss < state.best_metric:
                    state.best_metric, state.best_epoch = loss, epoch
                    best = copy.deepcopy(model.state_dict()) if args.keep == "best" else None
                tell("on_evaluate", metrics=state.log_history[-1])
            if ended:
                tell("on_epoch_end")
            agree()
            state.seconds = watch.seconds
            due = (ended and epoch % args.checkpoint_every == 0) or control.should_save
            # Not at the end of a run: resumed from there it would continue.
            if args.checkpoint_dir is not None and due and not control.should_training_stop:
                control.should_save = False
                with watch.paused():
                    tensors = {"model": model.state_dict(), "optimizer": stepper.state_dict(), "best": best}
                    tensors["callbacks"] = [(type(c).__name__, c.state_dict()) for c in keeping]
                    tensors["scheduler"] = None if schedule is None else schedule.state_dict()
                    if together.main:
                        save_checkpoint(args.checkpoint_dir, args.fingerprint, state, tensors)
                    together.wait()
                tell("on_save")
            bar.update()
            bar.set_postfix(loss=f"{record['loss']:.4f}")
    state.epoch = -(-state.step // steps_per_epoch)  # an unfinished pass counts
    state.ended = state.ended or ("steps" if state.step >= max_steps else "callback")
    if args.keep == "best" and best is not None:
        model.load_state_dict(best)
    stepper.zero_grad(set_to_none=True)  # the last gradient would reveal the forget set
    model.eval()
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise DivergenceError(f"Expected finite parameters (got NaN or infinity in '{name}')")
    if state.step > first and best is None:  # finite parameters may still be too large to compute with
        with torch.no_grad():
            _record(together.average(_total(step())), state.step)
    state.seconds = watch.seconds
    tell("on_train_end")
    if args.checkpoint_dir is not None:
        if together.main:
            delete_checkpoint(args.checkpoint_dir)
        together.wait()
    return state


def _step(optimizer: Any, gradients: Callable[[], ObjectiveValue], number: int) -> dict[str, float]:
    """Take one optimiser step; return the losses before it."""
    if isinstance(optimizer, torch.optim.LBFGS):
        values: list[ObjectiveValue] = []

        def closure() -> Tensor:
            optimizer.zero_grad(set_to_none=True)
            values.append(gradients())
            return values[-1].total

        optimizer.step(closure)
        record = _record(values[0], number)
    else:
        record = _record(gradients(), number)
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return record


def _total(value: ObjectiveValue | Iterable[ObjectiveValue], backward: bool = False) -> ObjectiveValue:
    """Add up the pieces of a step; with `backward` accumulate each one's gradient before the next is computed."""
    pieces = []
    for piece in [value] if isinstance(value, ObjectiveValue) else value:
        if backward:
            if not piece.total.requires_grad:
                raise UnsupportedModelError(
                    "Expected a loss with a gradient for the trained weights (got none): does the model's forward run "
                    "under torch.no_grad(), or detach its outputs?"
                )
            piece.total.backward()
        pieces.append(ObjectiveValue(piece.total.detach(), piece.terms) if backward else piece)
    if len(pieces) == 1:
        return pieces[0]
    terms: dict[str, Tensor] = {}
    for piece in pieces:
        for name, term in piece.terms.items():
            terms[name] = terms[name] + term if name in terms else term
    return ObjectiveValue(torch.stack([piece.total for piece in pieces]).sum(), terms)


def _record(value: ObjectiveValue, number: int) -> dict[str, float]:
    record = {"loss": float(value.total.detach()), **{name: float(term) for name, term in value.terms.items()}}
    bad = [name for name, loss in record.items() if not math.isfinite(loss)]
    if bad:
        raise DivergenceError(f"Expected finite losses (got NaN or infinity in {bad} after {number} steps)")
    return record


@torch.no_grad()
def _validated(model: nn.Module, validate: Callable[[], float]) -> float:
    model.eval()
    loss = validate()
    if loss != loss:
        raise DivergenceError("Expected a finite validation loss (got NaN)")
    return loss
