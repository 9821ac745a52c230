"""Train one model: copies, random state, clock, memory, record."""

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.core.checks import check_seed
from gunlearn.cost import PeakMemory
from gunlearn.errors import UnsupportedModelError
from gunlearn.nn.kernels.bag_of_words import dense_parts
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Task
from gunlearn.training.callbacks import Callback, check_callbacks
from gunlearn.training.from_scratch import train_from_scratch
from gunlearn.training.loop import TrainArguments
from gunlearn.training.optimizers import OptimizerSpec, SchedulerSpec
from gunlearn.training.result import Result


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
    task.check_model(model)
    model = private_copy(model, task)
    check_seed(seed)
    check_callbacks(callbacks)
    if args.checkpoint_dir is not None:
        settings = {**vars(args), "progress": None, "checkpoint_dir": None, "checkpoint_every": None}
        args = replace(args, fingerprint=fingerprint_of(["train", settings], task, seed, model, data))
    with isolated_rng(seed):
        memory = PeakMemory(device_of(model))
        state = train_from_scratch(model, data, task, args, callbacks, optimizer, scheduler)
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
        notes={"best_epoch": state.best_epoch, "best_val_loss": state.best_metric, **task.remarks(model)},
        task=task,
    )


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the first parameter; the CPU for a model without any."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def private_copy(model: nn.Module, task: Task) -> nn.Module:
    """Return a deep copy of `model`, adapted by `Task.adopt`."""
    try:
        model = copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:
        raise UnsupportedModelError(
            f"Expected a model that can be copied (got: {error}); detach or delete tensors that a forward pass left "
            "on it"
        ) from error
    return task.adopt(model)


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
