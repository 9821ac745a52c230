"""Trained models on disk, so that base models and references are trained once."""

import json
import os
import shutil
import uuid
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.bench.store import locked
from gunlearn.core.atomic import share
from gunlearn.core.digest import content_hash
from gunlearn.core.owner_key import keyed_hash
from gunlearn.errors import CheckpointError, InvalidInputError
from gunlearn.methods.any_task.retrain import Retrain
from gunlearn.methods.door import run_method
from gunlearn.nn.image_models import IMAGE_BACKBONES
from gunlearn.nn.zoo import BACKBONES, MeanPooled, backbone
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Task
from gunlearn.training.loop import TrainArguments
from gunlearn.training.result import Result
from gunlearn.training.run import run_training

_FORMAT = 3  # raise it when training changes: models are then trained again


@dataclass(frozen=True)
class Recipe:
    """How the base model and its retrained references are trained.

    Args:
        epochs: optimiser steps.
        lr: Adam's learning rate.
        weight_decay: Adam's L2 penalty.
        eval_every: epochs between validations; the best on the validation loss is kept. `None` keeps the last epoch.
        hidden_channels: size of the hidden layer.
        out_channels: size of the embeddings; under node or graph classification, the number of classes replaces it.
        num_layers: convolutions.
        backbone: one of `gunlearn.nn.BACKBONES`; of images one of `gunlearn.nn.IMAGE_BACKBONES`, whose `num_layers`
            widths double up to `hidden_channels`.
        batch_size: images per step; `None` reads all.

    Raises:
        InvalidInputError: an unknown backbone, or a number out of its range.
    """

    epochs: int = 2000
    lr: float = 1e-3
    weight_decay: float = 0.0
    eval_every: int | None = 50
    hidden_channels: int = 128
    out_channels: int = 64
    num_layers: int = 2
    backbone: str = "gcn"
    batch_size: int | None = None

    def __post_init__(self) -> None:
        known = {**BACKBONES, **IMAGE_BACKBONES}
        if self.backbone not in known:
            raise InvalidInputError(f"Expected a backbone among {sorted(known)} (got {self.backbone!r})")
        for name in ("eval_every", "hidden_channels", "out_channels", "num_layers", "batch_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InvalidInputError(f"Expected '{name}' of at least 1 (got {getattr(self, name)})")
        self.arguments()

    @property
    def of_images(self) -> bool:
        """Whether the model is one of images."""
        return self.backbone in IMAGE_BACKBONES

    def settings(self) -> dict[str, Any]:
        """Return the settings as rows and names of models hold them."""
        return {name: value for name, value in vars(self).items() if (name, value) != ("batch_size", None)}

    def model(self, data: Data, seed: int, task: str = "link_prediction") -> nn.Module:
        """Return a new model for a task on the data's device, its weights drawn under `seed`."""
        with isolated_rng(seed):
            if self.of_images:
                widths = [max(self.hidden_channels >> k, 1) for k in reversed(range(self.num_layers))]
                return IMAGE_BACKBONES[self.backbone](data.x.size(1), int(data.y.max()) + 1, widths).to(data.x.device)
            classes = task.endswith("_classification") and data.get("y") is not None
            out_channels = int(data.y.max()) + 1 if classes else self.out_channels
            sizes = data.num_features, self.hidden_channels, out_channels, self.num_layers
            model = backbone(self.backbone, *sizes)
            return (MeanPooled(model) if "batch" in data else model).to(data.edge_index.device)

    def arguments(self, progress: bool = False) -> TrainArguments:
        return TrainArguments(
            self.epochs,
            self.lr,
            self.weight_decay,
            eval_every=self.eval_every,
            keep="last" if self.eval_every is None else "best",
            progress=progress,
        )


class ModelStore:
    """Train models for a task, or read those from `directory` with the same data, recipe, seed and owner's key.

    Several users can share a folder that their group may write to. Each has models under names of their own, unless
    they share a key (`gunlearn.core.owner_key`); nobody's model is deleted by another.
    """

    def __init__(self, directory: str | Path, recipe: Recipe, task: Task, progress: bool = False) -> None:
        self.directory, self.recipe, self.task, self.progress = Path(directory), recipe, task, progress

    def _new(self, data: Data, seed: int) -> nn.Module:
        return self.recipe.model(data, seed, self.task.name)

    def train(self, data: Data, seed: int, progress: bool = False) -> Result:
        """Return a model trained on all of `data`, initialised under the same seed, without keeping it."""
        return run_training(self._new(data, seed), data, self.task, self.recipe.arguments(progress), seed)

    def base(self, data: Data, seed: int) -> Result:
        """Return what `train` returns, and keep it."""
        key = ["base", data_hash(data), seed]
        return self._kept(self._new(data, seed), key, partial(self.train, data, seed, self.progress))

    def retrained(self, base: Result, partition: Any, seed: int) -> Result:
        """Return the model trained from new weights without the forgotten data, and keep it."""
        recipe, key = self.recipe, ["retrain", data_hash(partition.data), partition.request_hash, seed]
        method = Retrain(recipe.epochs, recipe.lr, recipe.weight_decay, recipe.eval_every)
        make = partial(run_method, method, base.model, partition, self.task, seed, progress=self.progress)
        return self._kept(base.model, key, make)

    def _kept(self, model: nn.Module, key: list[Any], make: Callable[[], Result]) -> Result:
        settings = [_FORMAT, key, self.recipe.settings(), self.task.name, vars(self.task)]
        name = keyed_hash(json.dumps(settings, default=repr).encode(), "model", 20)
        # Keep the lock file: after its removal, new and waiting processes would lock different files.
        directory, lock = self.directory / name, self.directory / f".{name}.lock"
        with suppress(CheckpointError):
            return Result.load(directory, model)
        with ExitStack() as held:
            try:
                held.enter_context(locked(lock))  # other processes wait for this model
            except PermissionError as error:
                warnings.warn(f"the new model is not kept: {error}", UserWarning, stacklevel=3)
                return make()
            if (found := _read(directory, model)) is not None:
                return found
            result = make()
            _keep(result, directory)
            return result


def _read(directory: Path, model: nn.Module) -> Result | None:
    """Return a kept model; `None` where there is none, or with a warning where it is damaged or not readable."""
    if not directory.exists():
        return None
    try:
        return Result.load(directory, model)
    except CheckpointError as error:
        warnings.warn(f"a kept model is trained again: {error}", UserWarning, stacklevel=4)
        return None


def _keep(result: Result, directory: Path) -> None:
    """Write beside, then rename: a killed write leaves no half model. One of another user stays as it is."""
    if directory.exists() and hasattr(os, "geteuid") and directory.stat().st_uid != os.geteuid():
        warnings.warn(f"the new model is not kept: {directory} belongs to another user", UserWarning, stacklevel=4)
        return
    beside = directory.with_name(f".{directory.name}.{uuid.uuid4().hex}")
    damaged = beside.with_suffix(".damaged")
    try:
        result.save(beside)
        share(beside)
        if directory.exists():
            directory.rename(damaged)
        beside.rename(directory)
    finally:
        for left in (beside, damaged):
            shutil.rmtree(left, ignore_errors=True)


def data_hash(data: Data) -> str:
    """Return a hash of features, training edges, their attributes, validation edges; with masks, of labels too."""
    names = [
        *(["batch"] if "batch" in data else []),
        "x",
        "edge_index",
        "edge_weight",
        "edge_attr",
        "val_pos_edge_index",
        "val_neg_edge_index",
    ]
    names += ["y", "train_mask", "val_mask"] if "train_mask" in data else []
    return content_hash({name: data[name] for name in names if isinstance(data.get(name), Tensor)})[:20]
