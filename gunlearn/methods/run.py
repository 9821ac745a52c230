"""Run one method on one problem: copies, random state, clock, memory, record."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch_geometric.data import Data

from gunlearn.errors import DivergenceError, InvalidTypeError
from gunlearn.methods.base import Method, Problem
from gunlearn.methods.callbacks import Callback
from gunlearn.methods.cost import PeakMemory, Stopwatch
from gunlearn.methods.gradient import freeze
from gunlearn.methods.loop import TrainArguments
from gunlearn.methods.result import Result
from gunlearn.methods.training import train_from_scratch
from gunlearn.seed import isolated_rng
from gunlearn.tasks import Task


class _Clocked(Callback):
    """Wraps the caller's callbacks and keeps their time out of the method's."""

    def __init__(self, callbacks: Sequence[Callback], watch: Stopwatch) -> None:
        self.callbacks, self.watch = callbacks, watch

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("on_"):
            return object.__getattribute__(self, name)

        def tell(*args: Any, **kwargs: Any) -> None:
            with self.watch.paused():
                for callback in self.callbacks:
                    getattr(callback, name)(*args, **kwargs)

        return tell


def run_method(
    method: Method,
    model: nn.Module,
    partition: Any,
    task: Task,
    seed: int = 0,
    callbacks: Sequence[Callback] = (),
    progress: bool = False,
    checkpoint_dir: str | Path | None = None,
) -> Result:
    """Unlearn `partition` from a copy of `model`.

    Raises:
        UnsupportedMethodError: the method cannot do this; see its `supports`.
        DivergenceError: the method ended in NaN or infinity.
    """
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"Expected 'model' to be a torch module (got {type(model).__name__})")
    method.supports(task, partition)
    with isolated_rng(seed):
        original = freeze(copy.deepcopy(model))
        memory, watch = PeakMemory(_device(model)), Stopwatch()
        problem = Problem(
            model=copy.deepcopy(model),
            reference=original,
            partition=partition,
            task=task,
            seed=seed,
            callbacks=[_Clocked(callbacks, watch)] if callbacks else (),
            progress=progress,
            checkpoint_dir=checkpoint_dir,
            fingerprint=_fingerprint(method, partition, task, seed, model) if checkpoint_dir is not None else "",
        )
        outcome = method.run(problem)
        seconds = watch.seconds + outcome.state.seconds_before
    for name, tensor in outcome.model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise DivergenceError(f"Expected finite weights from '{method.name}' (got NaN or infinity in '{name}')")
    return Result(
        model=outcome.model.eval(),
        method=method.name,
        mode=method.label,
        config=method.config(),
        seed=seed,
        request_hash=partition.request_hash,
        num_forget=partition.num_forget,
        epochs=outcome.state.epoch,
        seconds=seconds,
        peak_memory_mb=memory.mb,
        history=outcome.state.log_history,
        notes=outcome.notes,
        partition=partition,
        task=task,
        original=original,
    )


def run_training(
    model: nn.Module, data: Data, task: Task, args: TrainArguments, seed: int, callbacks: Sequence[Callback] = ()
) -> Result:
    """Train a copy of `model` (as initialised by the caller) on `data`."""
    model = copy.deepcopy(model)
    with isolated_rng(seed):
        memory = PeakMemory(_device(model))
        state = train_from_scratch(model, data, task, args, callbacks)
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
        notes={"best_epoch": state.best_epoch, "best_val_loss": state.best_metric},
        task=task,
    )


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _fingerprint(method: Method, partition: Any, task: Task, seed: int, model: nn.Module) -> str:
    digest = hashlib.sha256(
        json.dumps([method.name, method.config(), partition.request_hash, task.name, vars(task), seed], default=repr).encode()
    )
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
