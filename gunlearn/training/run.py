"""Train one model: copies, random state, clock, memory, record."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from gunlearn.core.behaviour import code_of, settings_of
from gunlearn.core.checks import check_seed
from gunlearn.core.detached import detached
from gunlearn.core.digest import content_hash, state_hash
from gunlearn.core.owner_key import keyed_hash
from gunlearn.cost import PeakMemory
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Task
from gunlearn.tasks.dense_gradients import restore_sparse_gradients
from gunlearn.tasks.known_models import note_trained
from gunlearn.tasks.trial import private_copy, trial_pass
from gunlearn.training.callbacks import Callback, check_callbacks
from gunlearn.training.from_scratch import train_from_scratch
from gunlearn.training.keep_state import KeepState
from gunlearn.training.loop import TrainArguments
from gunlearn.training.optimizers import OptimizerSpec, SchedulerSpec
from gunlearn.training.result import Result, versions
from gunlearn.training.same_items import items_digest
from gunlearn.training.training_state import READING, TrainingState
from gunlearn.training.unchanged import remark_unchanged


def run_training(
    model: nn.Module,
    data: Any,
    task: Task,
    args: TrainArguments,
    seed: int,
    callbacks: Sequence[Callback] = (),
    optimizer: OptimizerSpec = "adam",
    scheduler: SchedulerSpec | None = None,
    keep_state: bool = True,
) -> Result:
    """Train a copy of `model` (as initialised by the caller) on `data`; with `keep_state` the result has `training`."""
    data = detached(data)
    check_seed(seed)
    check_callbacks(callbacks)
    trial = trial_pass(model, data, task)
    task.warn_of_arguments(model, data, trial.outputs, passed=False)
    initial, model = model, private_copy(model, task)
    if args.checkpoint_dir is not None:
        settings = {**vars(args), "progress": None, "checkpoint_dir": None, "checkpoint_every": None}
        args = replace(
            args, fingerprint=fingerprint_of(["train", settings, optimizer, scheduler], task, seed, model, data)
        )
    with isolated_rng(seed):
        memory = PeakMemory(device_of(model))
        keeping = KeepState() if keep_state else None
        heard = [*callbacks, keeping] if keeping is not None else callbacks
        state = train_from_scratch(model, data, task, args, heard, optimizer, scheduler)
    note_trained(model, task)
    restore_sparse_gradients(model, initial)
    notes = {"best_epoch": state.best_epoch, "best_val_loss": state.best_metric}
    config = {key: value for key, value in args.__dict__.items() if key not in ("checkpoint_dir", "fingerprint")}
    return Result(
        model=model.eval(),
        method="train",
        config=config,
        seed=seed,
        epochs=state.epoch,
        seconds=state.seconds,
        peak_memory_mb=memory.mb,
        history=state.log_history,
        notes={**remark_unchanged(notes, initial, model, state), **task.remarks(model)},
        task=task,
        training=None if keeping is None or not state.step else _kept(keeping, model, args, items_digest(task, data)),
    )


def _kept(keeping: KeepState, model: nn.Module, args: TrainArguments, items: str) -> TrainingState:
    return replace(keeping.state(model, **reading_of(args)), known_loss=True, items=items)


def reading_of(args: Any) -> dict[str, Any]:
    """Return how a training read its items, for its `TrainingState`."""
    return {name: getattr(args, name) for name in READING}


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the first parameter; the CPU for a model without any."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def fingerprint_of(settings: list[Any], task: Task, seed: int, model: nn.Module, data: Any) -> str:
    """Return hashes, `name:hash` each, of all that decides how a run goes.

    These are settings, what the model does (types, settings, code), its weights and which of them are trained, the data
    and the versions. They are made under the owner's key: another one gives another fingerprint.
    """
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    parts = {
        "key": "",
        "settings": [*settings, task.name, vars(task), seed],
        "model": [settings_of(model), code_of(model), trained],
        "weights": state_hash(model),
        "data": {key: data[key] for key in sorted(data.keys())} if hasattr(data, "keys") else vars(data),
        "versions": versions(),
    }
    return " ".join(f"{name}:{keyed_hash(content_hash(part).encode(), 'run')}" for name, part in parts.items())
