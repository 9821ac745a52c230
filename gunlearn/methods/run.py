"""Run one method on one problem: copies, random state, clock, memory, record."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.cost import PeakMemory, Stopwatch
from gunlearn.errors import DivergenceError, InvalidTypeError, UnsupportedModelError
from gunlearn.methods.base import Method, Problem
from gunlearn.methods.callbacks import Callback
from gunlearn.methods.gradient import freeze
from gunlearn.methods.loop import TrainArguments
from gunlearn.methods.result import Result
from gunlearn.methods.training import train_from_scratch
from gunlearn.nn import path_of
from gunlearn.nn.attach import CACHES
from gunlearn.nn.sparse import dense_parts
from gunlearn.seed import isolated_rng
from gunlearn.tasks import Task


class _Clocked(Callback):
    """Wraps the caller's callbacks and keeps their time and memory out of the method's."""

    def __init__(self, callbacks: Sequence[Callback], watch: Stopwatch, memory: PeakMemory) -> None:
        self.callbacks, self.watch, self.memory = callbacks, watch, memory

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("on_"):
            return object.__getattribute__(self, name)

        def tell(*args: Any, **kwargs: Any) -> None:
            with self.watch.paused(), self.memory.paused():
                for callback in self.callbacks:
                    method = getattr(callback, name, None)
                    if method is not None:
                        method(*args, **kwargs)

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
        original = freeze(private_copy(model))
        memory, watch = PeakMemory(_device(model)), Stopwatch()
        problem = Problem(
            model=private_copy(model),
            reference=original,
            partition=partition,
            task=task,
            seed=seed,
            callbacks=[_Clocked(callbacks, watch, memory)] if callbacks else (),
            progress=progress,
            checkpoint_dir=checkpoint_dir,
            fingerprint=""
            if checkpoint_dir is None
            else _fingerprint(
                [method.name, method.config(), partition.request_hash], task, seed, model, partition.data
            ),
        )
        outcome = method.run(problem)
        state = outcome.state
        seconds = watch.seconds + (0.0 if state is None else state.seconds_before)
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
        epochs=None if state is None else state.epoch,
        seconds=seconds,
        peak_memory_mb=memory.mb,
        history=[] if state is None else state.log_history,
        notes={**outcome.notes, **_path(outcome.model)},
        partition=partition,
        task=task,
        original=original,
    )


def run_training(
    model: nn.Module, data: Data, task: Task, args: TrainArguments, seed: int, callbacks: Sequence[Callback] = ()
) -> Result:
    """Train a copy of `model` (as initialised by the caller) on `data`."""
    model = private_copy(model)
    if args.checkpoint_dir is not None:
        settings = {**vars(args), "progress": None, "checkpoint_dir": None, "checkpoint_every": None}
        args = replace(args, fingerprint=_fingerprint(["train", settings], task, seed, model, data))
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
        notes={"best_epoch": state.best_epoch, "best_val_loss": state.best_metric, **_path(model)},
        task=task,
    )


def _path(model: nn.Module) -> dict[str, str]:
    """Which way the layers ran, CSR products or gather-scatter; nothing where there are no such layers."""
    path = path_of(model)
    return {} if path is None else {"path": path}


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def private_copy(model: nn.Module) -> nn.Module:
    """A deep copy to work on. PyG's `cached=True` layers forget the one graph they saw: it holds the forgotten edges.

    Raises:
        UnsupportedModelError: the model holds what cannot be copied.
    """
    try:
        model = copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:
        raise UnsupportedModelError(
            f"Expected a model that can be copied (got: {error}); detach or delete tensors that a forward pass left "
            "on it"
        ) from error
    for module in model.modules():
        if getattr(module, "cached", None) is True:
            module.cached = False
            for name in CACHES:
                if name in module.__dict__:
                    setattr(module, name, None)
    return model


def _fingerprint(settings: list[Any], task: Task, seed: int, model: nn.Module, data: Data) -> str:
    """Of all that decides how a run goes: settings, weights (and which of them are trained), data."""
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
