"""Train one model: copies, random state, clock, memory, record."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.core.checks import check_seed
from gunlearn.cost import PeakMemory
from gunlearn.nn.kernels.bag_of_words import dense_parts
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Task
from gunlearn.tasks.trial import private_copy, trial_pass
from gunlearn.training.callbacks import Callback, check_callbacks
from gunlearn.training.from_scratch import train_from_scratch
from gunlearn.training.loop import TrainArguments
from gunlearn.training.optimizers import OptimizerSpec, SchedulerSpec
from gunlearn.training.result import Result
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
) -> Result:
    """Train a copy of `model` (as initialised by the caller) on `data`."""
    check_seed(seed)
    check_callbacks(callbacks)
    trial_pass(model, data, task)
    initial, model = model, private_copy(model, task)
    if args.checkpoint_dir is not None:
        settings = {**vars(args), "progress": None, "checkpoint_dir": None, "checkpoint_every": None}
        args = replace(args, fingerprint=fingerprint_of(["train", settings], task, seed, model, data))
    with isolated_rng(seed):
        memory = PeakMemory(device_of(model))
        state = train_from_scratch(model, data, task, args, callbacks, optimizer, scheduler)
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
    )


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the first parameter; the CPU for a model without any."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def fingerprint_of(settings: list[Any], task: Task, seed: int, model: nn.Module, data: Any) -> str:
    """Return a hash of all that decides how a run goes: settings, weights (and which of them are trained), data."""
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    digest = hashlib.sha256(json.dumps([*settings, task.name, vars(task), seed, trained], default=repr).encode())
    tensors = {**model.state_dict(), **{f"data.{key}": data[key] for key in sorted(data.keys())}}
    for name, value in tensors.items():
        digest.update(name.encode())
        if not isinstance(value, Tensor):
            digest.update(repr(value).encode())
            continue
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        for part in dense_parts(value):
            digest.update(part.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
