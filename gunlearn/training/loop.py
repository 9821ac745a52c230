"""THE training loop: base models, retraining and every optimised method run through `fit`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from gunlearn.errors import InvalidInputError
from gunlearn.training.arguments import TrainArguments
from gunlearn.training.callbacks import Callback, TrainState
from gunlearn.training.held_weights import HeldWeights
from gunlearn.training.one_run import LoopRun, Step
from gunlearn.training.optimizers import OptimizerSpec, SchedulerSpec, make_optimizer, make_scheduler

__all__ = ["Step", "TrainArguments", "fit"]


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
    penalty: Callable[[TrainState], None] | None = None,
    held: HeldWeights | None = None,
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
        penalty: called with the run's state after each step's backward pass, to add to the gradients.
        held: weights that stay as they are.

    Raises:
        DivergenceError: the loss or a parameter is NaN or infinite.
        CheckpointError: `args.checkpoint_dir` holds a damaged checkpoint, or that of another run or other callbacks.
    """
    if args.keep == "best" and (validate is None or args.eval_every is None):
        raise InvalidInputError("Expected validation items and 'eval_every' for keep='best' (got none)")
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    parameters = list(named.values())
    if not parameters:
        raise InvalidInputError("Expected a model with trainable parameters (got none that require grad)")
    stepper = make_optimizer(optimizer, parameters, args.lr, args.weight_decay, optimizer_options, list(named))
    schedule = make_scheduler(scheduler, stepper, scheduler_options)
    run = LoopRun(
        model, step, args, callbacks, validate, stop, stepper, schedule, steps_per_epoch, penalty, parameters, held
    )
    run.resume()
    run.train()
    return run.finish()
