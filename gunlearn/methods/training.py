"""Training a model from scratch: base models and the retrained gold standard."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.errors import UnsupportedModelError
from gunlearn.losses import NLL, as_objective
from gunlearn.methods.base import Method, Outcome, Problem
from gunlearn.methods.batches import BatchOptions, Feed
from gunlearn.methods.callbacks import Callback, EarlyStopping, TrainState
from gunlearn.methods.deletion import strip_operators
from gunlearn.methods.distributed import processes
from gunlearn.methods.loop import TrainArguments, fit
from gunlearn.tasks import Task


def train_from_scratch(
    model: nn.Module,
    data: Data,
    task: Task,
    args: TrainArguments,
    callbacks: Sequence[Callback] = (),
) -> TrainState:
    """Fit `model` in place to all of `data` by its negative log-likelihood, selecting on validation items if there are.

    Args:
        model: freshly initialised.
        data: what may be learned from; a forgotten edge must not be in it.
        task: what the model predicts.
        args: settings; `keep="best"` falls back to the last epoch where the data holds no validation items.
        callbacks: told of the loop's events.
    """
    objective = as_objective(NLL(on="retain"))
    reading = BatchOptions(args.batch_size, args.sampler, args.num_neighbors)
    feed = Feed(model, task, task.training_parts(data), objective.parts, reading)
    held_out, together = task.validation_items(data), processes()

    def step():
        items = feed.sample()
        with together.apart(model):
            read, mine, subgraph = feed.read(together.share(items))
        with together.apart(model) if subgraph is not None else nullcontext():
            outputs = task.encode(model, read)
        with together.apart(model):
            current = {name: task.decode(model, outputs, mine[name]) for name in objective.parts}
        return together.evaluate(objective, items, current)

    def validate() -> float:
        return float(-task.predict(model, data, held_out).log_prob.mean())

    if held_out is None:
        args = TrainArguments(**{**args.__dict__, "keep": "last", "eval_every": None})
    if feed.batches is not None:
        callbacks = [*callbacks, feed]
    return fit(model, step, args, callbacks, None if held_out is None else validate)


def reset_model(model: nn.Module) -> nn.Module:
    """A copy of `model` with newly drawn weights, through each module's own `reset_parameters`.

    Models of transformers are built anew from their configuration.

    Deletion operators are left off: they belong to what was unlearned, not to the architecture.

    Raises:
        UnsupportedModelError: a module holds parameters but cannot reset them, or does not.
    """
    fresh = strip_operators(copy.deepcopy(model))
    if hasattr(fresh, "reset_parameters"):
        fresh.reset_parameters()
    elif hasattr(type(fresh), "post_init") and hasattr(fresh, "config"):
        like = next(fresh.parameters())
        fresh = type(fresh)(fresh.config).to(like.device, like.dtype)
    else:
        for name, module in fresh.named_modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
            elif any(True for _ in module.parameters(recurse=False)):
                raise UnsupportedModelError(
                    "Expected every module with parameters to have 'reset_parameters' "
                    f"(got '{name or type(module).__name__}' without); pass your own training function to retrain"
                )
    # What is still the same was trained on the data to forget, unless it is a constant start (a bias of zeros).
    before = model.state_dict()
    for name, value in fresh.state_dict().items():
        if (
            not isinstance(value, Tensor)
            or not torch.equal(value, before[name])
            or bool((value == value.flatten()[:1]).all())
        ):
            continue
        if name in dict(fresh.named_parameters()):
            raise UnsupportedModelError(
                f"Expected 'reset_parameters' to draw all weights anew (got '{name}' unchanged); "
                "pass your own training function to retrain this model"
            )
        warnings.warn(
            f"buffer '{name}' kept its value in the model to retrain; if it was learned from data, pass your own "
            "training function",
            stacklevel=2,
        )
    return fresh


@dataclass(frozen=True)
class Retrain(Method):
    """Train again from new weights without the forgotten data: the gold standard, and its price.

    Args:
        epochs: as many as the base model had.
        lr: Adam's learning rate.
        weight_decay: Adam's L2 penalty.
        eval_every: epochs between validations; the best on the validation loss is kept.
        patience: evaluations without improvement before the run stops; `None` runs to the end.
        train: the caller's own training function `train(data, seed) -> model`, used instead.
        batch_size: retained items per step, an epoch being one step; `None` reads them all.
        sampler: what the model reads for a batch: `"k_hop"`, `"neighbor"` or `"random_node"`, see `GradientMethod`.
        num_neighbors: neighbours per layer for `sampler="neighbor"`.
    """

    epochs: int = 2000
    lr: float = 1e-3
    weight_decay: float = 0.0
    eval_every: int = 50
    patience: int | None = None
    train: Callable[[Data, int], nn.Module] | None = None
    batch_size: int | None = None
    sampler: str = "k_hop"
    num_neighbors: tuple[int, ...] | None = None

    name = "retrain"
    summary = "train from new weights without the forgotten data"
    needs = "retained data, retraining"
    cost = "a whole training"

    def __post_init__(self) -> None:
        """Refuse bad batches at construction."""
        BatchOptions(self.batch_size, self.sampler, self.num_neighbors)

    def run(self, problem: Problem) -> Outcome:
        """See `Method.run`."""
        data = problem.partition.retain_data
        if self.train is not None:
            # A shallow copy: what their function sets on it must not change the partition.
            model = self.train(copy.copy(data), problem.seed)
            if not isinstance(model, nn.Module):
                raise UnsupportedModelError(f"Expected 'train' to return a torch module (got {type(model).__name__})")
            return Outcome(model.eval(), None)
        model = reset_model(problem.model).requires_grad_()
        args = TrainArguments(
            self.epochs,
            self.lr,
            self.weight_decay,
            eval_every=self.eval_every,
            keep="best" if self.eval_every else "last",
            progress=problem.progress,
            checkpoint_dir=problem.checkpoint_dir,
            fingerprint=problem.fingerprint,
            batch_size=self.batch_size,
            sampler=self.sampler,
            num_neighbors=self.num_neighbors,
        )
        extra = [] if self.patience is None else [EarlyStopping(self.patience)]
        state = train_from_scratch(model, data, problem.task, args, [*problem.callbacks, *extra])
        recipe = {"epochs": self.epochs, "lr": self.lr, "weight_decay": self.weight_decay}
        return Outcome(model, state, {"recipe": recipe})
