"""Trained models on disk, so that base models and references are trained once."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.bench.store import locked
from gunlearn.errors import CheckpointError, InvalidInputError
from gunlearn.methods.any_task.retrain import Retrain
from gunlearn.methods.door import run_method
from gunlearn.nn.kernels.bag_of_words import dense_parts
from gunlearn.nn.zoo import BACKBONES, MeanPooled, backbone
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Task
from gunlearn.training.loop import TrainArguments
from gunlearn.training.result import Result
from gunlearn.training.run import run_training

_FORMAT = 1  # raise it when training changes: models are then trained again


@dataclass(frozen=True)
class Recipe:
    """How the base model and its retrained references are trained.

    Args:
        epochs: optimiser steps.
        lr: Adam's learning rate.
        weight_decay: Adam's L2 penalty.
        eval_every: epochs between validations; the best on the validation loss is kept.
        hidden_channels: size of the hidden layer.
        out_channels: size of the embeddings; with a split of nodes or graphs, the number of classes replaces it.
        num_layers: convolutions.
        backbone: one of `gunlearn.nn.BACKBONES`.

    Raises:
        InvalidInputError: an unknown backbone, or a number out of its range.
    """

    epochs: int = 2000
    lr: float = 1e-3
    weight_decay: float = 0.0
    eval_every: int = 50
    hidden_channels: int = 128
    out_channels: int = 64
    num_layers: int = 2
    backbone: str = "gcn"

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise InvalidInputError(f"Expected a backbone among {sorted(BACKBONES)} (got {self.backbone!r})")
        for name in ("eval_every", "hidden_channels", "out_channels", "num_layers"):
            if getattr(self, name) < 1:
                raise InvalidInputError(f"Expected '{name}' of at least 1 (got {getattr(self, name)})")
        self.arguments()

    def model(self, data: Data, seed: int) -> nn.Module:
        """Return a new model on the data's device, its weights drawn under `seed`."""
        with isolated_rng(seed):
            classes = "train_mask" in data and data.get("y") is not None
            out_channels = int(data.y.max()) + 1 if classes else self.out_channels
            sizes = data.num_features, self.hidden_channels, out_channels, self.num_layers
            model = backbone(self.backbone, *sizes)
            return (MeanPooled(model) if "batch" in data else model).to(data.edge_index.device)

    def arguments(self, progress: bool = False) -> TrainArguments:
        return TrainArguments(
            self.epochs, self.lr, self.weight_decay, eval_every=self.eval_every, keep="best", progress=progress
        )


class ModelStore:
    """Train models for a task, or read those from `directory` with the same data, recipe and seed."""

    def __init__(self, directory: str | Path, recipe: Recipe, task: Task, progress: bool = False) -> None:
        self.directory, self.recipe, self.task, self.progress = Path(directory), recipe, task, progress

    def train(self, data: Data, seed: int, progress: bool = False) -> Result:
        """Return a model trained on all of `data`, initialised under the same seed, without keeping it."""
        return run_training(self.recipe.model(data, seed), data, self.task, self.recipe.arguments(progress), seed)

    def base(self, data: Data, seed: int) -> Result:
        """Return what `train` returns, and keep it."""
        key = ["base", data_hash(data), seed]
        return self._kept(self.recipe.model(data, seed), key, partial(self.train, data, seed, self.progress))

    def retrained(self, base: Result, partition: Any, seed: int) -> Result:
        """Return the model trained from new weights without the forgotten data, and keep it."""
        recipe, key = self.recipe, ["retrain", data_hash(partition.data), partition.request_hash, seed]
        method = Retrain(recipe.epochs, recipe.lr, recipe.weight_decay, recipe.eval_every)
        make = partial(run_method, method, base.model, partition, self.task, seed, progress=self.progress)
        return self._kept(base.model, key, make)

    def _kept(self, model: nn.Module, key: list[Any], make: Callable[[], Result]) -> Result:
        settings = [_FORMAT, key, vars(self.recipe), self.task.name, vars(self.task)]
        name = hashlib.sha256(json.dumps(settings, default=repr).encode()).hexdigest()[:20]
        # Keep the lock file: after its removal, new and waiting processes would lock different files.
        directory, lock = self.directory / name, self.directory / f".{name}.lock"
        with suppress(CheckpointError):
            return Result.load(directory, model)
        with locked(lock):  # other processes wait for this model
            with suppress(CheckpointError):
                return Result.load(directory, model)
            result = make()
            # Write beside, then rename: a killed write leaves no half model.
            with tempfile.TemporaryDirectory(dir=self.directory, prefix=".") as beside:
                written = result.save(Path(beside) / name)
                shutil.rmtree(directory, ignore_errors=True)  # a damaged model
                written.rename(directory)
            return result


def data_hash(data: Data) -> str:
    """Return a hash of features, training edges, their attributes, validation edges; with masks, of labels too."""
    digest = hashlib.sha256()
    names = [
        *(["batch"] if "batch" in data else []),
        "x",
        "edge_index",
        "edge_weight",
        "edge_attr",
        "val_pos_edge_index",
        "val_neg_edge_index",
    ]
    for name in [*names, *(("y", "train_mask", "val_mask") if "train_mask" in data else ())]:
        value = data.get(name)
        if isinstance(value, Tensor):
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            for part in dense_parts(value):
                digest.update(part.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:20]
