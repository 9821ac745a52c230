"""Training from new weights, for base models and the retrained gold standard."""

import copy
import warnings
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.core.modes import keeps_statistics
from gunlearn.errors import UnsupportedModelError
from gunlearn.tasks.base import Task
from gunlearn.tasks.sampling import BatchOptions
from gunlearn.training.callbacks import Callback, TrainState
from gunlearn.training.feeding import Feed
from gunlearn.training.loop import TrainArguments, fit
from gunlearn.training.optimizers import OptimizerSpec, SchedulerSpec
from gunlearn.training.step import ObjectiveStep
from gunlearn.training.unseen import Unseen, training_objective


def train_from_scratch(
    model: nn.Module,
    data: Any,
    task: Task,
    args: TrainArguments,
    callbacks: Sequence[Callback] = (),
    optimizer: OptimizerSpec = "adam",
    scheduler: SchedulerSpec | None = None,
    unseen: Unseen | None = None,
) -> TrainState:
    """Fit a freshly initialised `model` in place to all of `data` by its negative log-likelihood.

    `data` must not hold forgotten items. `args.keep="best"` selects the epoch on validation items, and falls back to
    the last one if the data holds none. `unseen` adds to the loss. For the other arguments see `fit`.
    """
    task, reading = task.for_training(), BatchOptions(args.batch_size, args.sampler, args.num_neighbors)
    feed, step = training_step(model, data, task, reading, unseen)
    held_out = task.validation_items(data)

    def validate() -> float:
        return float(-task.predict(model, data, held_out).log_prob.mean())

    if held_out is None:
        args = replace(args, keep="last", eval_every=None)
    return fit(
        model,
        step,
        args,
        [*callbacks, feed] if feed.draws else callbacks,
        None if held_out is None else validate,
        optimizer=optimizer,
        scheduler=scheduler,
        steps_per_epoch=feed.steps_per_epoch,
    )


def training_step(
    model: nn.Module, data: Any, task: Task, reading: BatchOptions, unseen: Unseen | None = None
) -> tuple[Feed, ObjectiveStep]:
    """Return what a step of training on all of `data` reads, and the loss that it minimises, see `Unseen`."""
    task, objective = task.for_training(), training_objective(unseen)
    parts = task.training_parts(data) if unseen is None else unseen.parts
    feed = Feed(model, task, parts, objective.parts, reading)
    given = {} if unseen is None else {"forget": unseen.logits}
    return feed, ObjectiveStep(model, task, feed, lambda step: objective, given=given)


def fresh_like(model: nn.Module) -> nn.Module:
    """Return a copy with newly drawn weights; what does not learn stays: parameters, and their statistics.

    Raises:
        UnsupportedModelError: see `reset_model`; or a model of transformers, which was pretrained, not drawn.
    """
    if hasattr(model, "post_init"):
        raise UnsupportedModelError(
            "Expected a model whose training began from drawn weights (got one of transformers, which began from "
            "pretrained ones)"
        )
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    fresh = reset_model(model, frozen)
    with torch.no_grad():
        for (name, parameter), own in zip(fresh.named_parameters(), model.parameters(), strict=True):
            if name in frozen:
                parameter.copy_(own)
            parameter.requires_grad_(name not in frozen)
        for path, layer in model.named_modules():
            for name, own in layer.named_buffers(recurse=False) if keeps_statistics(layer) else ():
                fresh.get_submodule(path).get_buffer(name).copy_(own)
    return fresh


def reset_model(model: nn.Module, same: Collection[str] = ()) -> nn.Module:
    """Return a copy of `model` with newly drawn weights, by each module's own `reset_parameters`.

    Models of transformers are built anew from their configuration. The copy has no deletion operators: they belong to
    what was unlearned, not to the architecture. Parameters named in `same` may come out as they were.

    Raises:
        UnsupportedModelError: a module holds parameters but cannot reset them, or does not.
    """
    fresh = copy.deepcopy(model)
    if any(hasattr(module, "deletions") for module in fresh.modules()):
        from gunlearn.nn.attach.operators import strip_operators  # loads PyG, so only if needed

        strip_operators(fresh)
    try:
        fresh = _reset(fresh)
    except UnsupportedModelError:
        raise
    except Exception as error:
        raise UnsupportedModelError(
            f"Expected 'reset_parameters' to draw the model's weights again (it raised {type(error).__name__}: {error})"
        ) from error
    # Unchanged values were learned from the data to forget, unless constant (a bias of zeros).
    before, learned = model.state_dict(), dict(fresh.named_parameters())
    again: dict[str, Any] = {}
    for name, value in fresh.state_dict().items():
        constant = not isinstance(value, Tensor) or bool((value == value.flatten()[:1]).all())
        if constant or not torch.equal(value, before[name]):
            continue
        if name in same:
            continue
        if name in learned:
            again = again or _reset(copy.deepcopy(fresh)).state_dict()
            if not torch.equal(again[name], value):
                continue  # not trained, and drawn under the seed that it was first drawn under
            raise UnsupportedModelError(
                f"Expected 'reset_parameters' to draw all weights again (got '{name}' unchanged); "
                "pass your own training function to retrain this model"
            )
        warnings.warn(
            f"buffer '{name}' kept its value in the model to retrain; if it was learned from data, pass your own "
            "training function",
            stacklevel=2,
        )
    return fresh


def _reset(fresh: nn.Module) -> nn.Module:
    reset = getattr(fresh, "reset_parameters", None)
    if reset is not None:
        reset()
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
    return fresh
