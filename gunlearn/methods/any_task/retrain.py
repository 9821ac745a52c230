"""Retraining, the gold standard."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch_geometric.data import Data

from gunlearn.errors import InvalidTypeError
from gunlearn.methods.base import Method, Outcome, Problem
from gunlearn.tasks.sampling import BatchOptions
from gunlearn.training.callbacks import EarlyStopping
from gunlearn.training.from_scratch import fresh_like, reset_model, train_from_scratch
from gunlearn.training.loop import TrainArguments
from gunlearn.training.optimizers import OptimizerSpec, SchedulerSpec, makes_its_own
from gunlearn.training.own_training import trained_by


@dataclass(frozen=True)
class Retrain(Method):
    """Train again from new weights without the forgotten data.

    Args:
        epochs: as many as the base model had.
        weight_decay: the optimiser's own penalty.
        eval_every: epochs between validations; the model with the best validation loss is kept; `None` keeps the last.
        patience: evaluations without improvement before the run stops; `None` never stops early.
        train: your training function `train(data, seed) -> model`; it replaces all other options, and gets a
            copy of the retained data in their own form, which it may change.
        batch_size: retained items per step; `None` reads them all.
        sampler: see `GradientOptions`, like `num_neighbors`.
        steps: optimiser steps, in place of `epochs`.
        optimizer: that of the base model: a name of `torch.optim`, or a function from parameters to an optimiser.
        scheduler: likewise, of `torch.optim.lr_scheduler`.
    """

    epochs: int = 2000
    lr: float = 1e-3
    weight_decay: float = 0.0
    eval_every: int | None = 50
    patience: int | None = None
    train: Callable[[Data, int], nn.Module] | None = None
    batch_size: int | None = None
    sampler: str = "k_hop"
    num_neighbors: tuple[int, ...] | None = None
    steps: int | None = None
    optimizer: OptimizerSpec = "adam"
    scheduler: SchedulerSpec | None = None

    name = "retrain"
    summary = "train from new weights without the forgotten data"
    needs = "retained data, retraining"
    state = "own"
    cost = "a whole training"

    def __post_init__(self) -> None:
        BatchOptions(self.batch_size, self.sampler, self.num_neighbors)
        if self.train is not None:
            try:
                inspect.signature(self.train).bind(None, 0)
            except ValueError:  # a function whose arguments nobody can tell
                pass
            except TypeError as error:
                raise InvalidTypeError(
                    f"Expected 'train' to be a function of data and seed, train(data, seed) (got one for which {error})"
                ) from error

    def run(self, problem: Problem) -> Outcome:
        data = problem.partition.retain_data
        if self.train is not None:
            model = trained_by(self.train, data, problem.seed, before=problem.partition.data)
            return Outcome(model.eval(), None)
        as_then = getattr(self.optimizer, "keeps_frozen", False)
        model = fresh_like(problem.model) if as_then else reset_model(problem.model).requires_grad_()
        args = TrainArguments(
            self.epochs,
            self.lr,
            self.weight_decay,
            eval_every=self.eval_every,
            keep="last" if self.eval_every is None else "best",
            batch_size=self.batch_size,
            sampler=self.sampler,
            num_neighbors=self.num_neighbors,
            steps=self.steps,
            **problem.loop_settings,
        )
        extra = [] if self.patience is None else [EarlyStopping(self.patience)]
        state = train_from_scratch(
            model, data, problem.task, args, [*problem.callbacks, *extra], self.optimizer, self.scheduler
        )
        recipe: dict[str, Any] = {"epochs": self.epochs} if self.steps is None else {"steps": self.steps}
        own = makes_its_own(self.optimizer)
        recipe |= {"optimizer": repr(self.optimizer)} if own else {"lr": self.lr, "weight_decay": self.weight_decay}
        return Outcome(model, state, {"recipe": recipe})
