"""Influence studies from end to end: data, base model, study, files."""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch_geometric.data import Data

from gunlearn.attribution import ESTIMATORS
from gunlearn.attribution.study.study import Study, influence_study
from gunlearn.bench.config import canonical_name
from gunlearn.bench.grid import resolve_device, threads
from gunlearn.bench.models import ModelStore, Recipe
from gunlearn.bench.options import typed_options
from gunlearn.bench.store import atomic_write, csv_text, plain
from gunlearn.datasets.registry import load
from gunlearn.errors import CheckpointError, InvalidInputError, UnsupportedModelError
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Task
from gunlearn.tasks.graph.node_classification import labels
from gunlearn.tasks.graph.splits import link_split, node_split
from gunlearn.tasks.named import as_task
from gunlearn.training.run import run_training

_STEM = "influence"


@dataclass(frozen=True)
class InfluenceConfig:
    """A study on one data set.

    Args:
        dataset: a name, or a folder with `edges.csv` and `features.npy`.
        estimators: names; `None` for all that fit, see `influence_study`.
        root: folder of the raw files.
        task: `"link_prediction"` or `"node_classification"`.
        of: see `influence_study`, as `target`, `truth`, `num_items` and `truth_items`.
        target: what influence is on.
        truth: what estimates are held against.
        num_items: study a sample of the items.
        truth_items: the truth of a sample only.
        seed: of the split, the base model, samples, estimators and bootstrap.
        recipe: of the base model.
        model: `PATH.py:FUNCTION`, a function `(data, seed) -> trained model` in place of the recipe.
        estimator_args: `key=value` or `estimator.key=value`.
        truth_args: `key=value`.
        double: in double precision, once the model is trained: training influence of single edges needs it.
        device: `"cpu"`, `"cuda"` or `"auto"`.
        threads: torch's threads; `None` leaves them.
        models: folder of trained models; `None` is `models` in the output folder.

    Raises:
        InvalidInputError: anything that can be refused before data are read.
    """

    dataset: str
    estimators: tuple[str, ...] | None = None
    root: str | Path | None = None
    task: str = "link_prediction"
    of: str = "edges"
    target: str = "probabilities"
    truth: str = "removal"
    num_items: int | None = None
    truth_items: int | None = None
    seed: int = 0
    recipe: Recipe = field(default_factory=Recipe)
    model: str | None = None
    estimator_args: tuple[str, ...] = ()
    truth_args: tuple[str, ...] = ()
    double: bool = False
    device: str = "cpu"
    threads: int | None = None
    models: str | Path | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant, before minutes of training."""
        if self.task not in ("link_prediction", "node_classification"):
            raise InvalidInputError(f"Expected a task 'link_prediction' or 'node_classification' (got '{self.task}')")
        unknown = sorted(set(self.estimators or ()) - set(ESTIMATORS))
        if unknown:
            raise InvalidInputError(f"Expected estimators among {sorted(ESTIMATORS)} (got {unknown})")
        if self.seed < 0 or (self.threads is not None and self.threads < 1):
            raise InvalidInputError(f"Expected a seed >= 0 and threads >= 1 (got {self.seed}, {self.threads})")
        for name in ("num_items", "truth_items"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InvalidInputError(f"Expected '{name}' of at least 1 (got {getattr(self, name)})")
        for name in ("eval_every", "hidden_channels", "out_channels", "num_layers"):
            if getattr(self.recipe, name) < 1:
                raise InvalidInputError(f"Expected '{name}' of at least 1 (got {getattr(self.recipe, name)})")
        self.recipe.arguments()
        self.estimator_options()
        self.truth_options()

    def estimator_options(self) -> dict[str, dict[str, Any]]:
        """Options by estimator."""
        known = {name: ESTIMATORS[name].options() for name in self.estimators or ESTIMATORS}
        options = typed_options(self.estimator_args, known, "estimator")
        return {name: given for name, given in options.items() if given}

    def truth_options(self) -> dict[str, Any]:
        """Options of the truth."""
        return typed_options([f"truth.{a}" for a in self.truth_args], {"truth": _Anything()}, "truth")["truth"]


class _Anything(tuple):
    """Holds every name: the truth itself says what it does not know."""

    def __contains__(self, name: object) -> bool:
        return True


def run_influence(
    config: InfluenceConfig, out: str | Path, report: Callable[[dict[str, Any]], None] | None = None, bars: bool = False
) -> Study:
    """Train or load the base model, run the study, write its files.

    Args:
        config: what to study.
        out: folder of the outputs, see `write_study`.
        report: told of each row as it comes.
        bars: show progress bars of the training.

    Raises:
        GunlearnError: the data, the model or the truth cannot be had; an estimator's failure is a row with an `error`.
    """
    from gunlearn.report.influence_table import influence_report

    task = as_task(config.task)
    function = None if config.model is None else load_function(config.model)
    with threads(config.threads):
        data = load(config.dataset, config.root, sparse=function is None)
        split = link_split if config.task == "link_prediction" else _node_split
        data = split(data, seed=config.seed).to(resolve_device(config.device))
        if function is None:
            model, train = _recipe_model(config, data, task, Path(config.models or Path(out) / "models"), bars)
        else:
            model, train = _called(function, data, config.seed), lambda part, seed: _called(function, part, seed)
        if config.double:
            model, data = copy.deepcopy(model).double(), copy.copy(data)
            data.x, train = data.x.double(), _single(train)
        study = influence_study(
            model, data, task, of=config.of, target=config.target, estimators=config.estimators, truth=config.truth,
            num_items=config.num_items, truth_items=config.truth_items, seed=config.seed,
            options=config.estimator_options(), truth_options=config.truth_options(), train=train,
            dataset=canonical_name(config.dataset) or Path(config.dataset).resolve().name, report=report,
        )  # fmt: skip
    if function is None:
        study.settings["recipe"] = vars(config.recipe)
    write_study(study, out)
    influence_report(study, Path(out) / f"{_STEM}.html")
    return study


def write_study(study: Study, out: str | Path) -> None:
    """Write `influence.json` (rows), `influence.csv`, and `influence.npz` (items, scores, settings) into a folder."""
    out = Path(out)
    rows = plain(study.rows)
    atomic_write(out / f"{_STEM}.json", json.dumps(rows, indent=1, allow_nan=False) + "\n")
    atomic_write(out / f"{_STEM}.csv", csv_text(rows))
    arrays = {f"estimate/{name}": scores.numpy() for name, scores in study.estimates.items()}
    arrays |= {"items": study.items.numpy(), "truth": study.truth.numpy()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays, settings=np.array(json.dumps(plain(study.settings))))
    atomic_write(out / f"{_STEM}.npz", buffer.getvalue())


def read_study(directory: str | Path) -> Study:
    """What `write_study` wrote.

    Raises:
        CheckpointError: no study there, or not one of ours.
    """
    directory = Path(directory)
    try:
        rows = json.loads((directory / f"{_STEM}.json").read_text(encoding="utf-8"))
        with np.load(directory / f"{_STEM}.npz", allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
        settings = json.loads(str(arrays.pop("settings")))
        items, truth = torch.from_numpy(arrays.pop("items")), torch.from_numpy(arrays.pop("truth"))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"Expected the output folder of 'gunlearn influence' with {_STEM}.json and {_STEM}.npz "
            f"(got {directory}: {error})"
        ) from error
    estimates = {name.removeprefix("estimate/"): torch.from_numpy(scores) for name, scores in arrays.items()}
    return Study(rows, items, truth, estimates, settings)


def load_function(path: str) -> Callable[..., Any]:
    """A function of a python file, from `PATH.py:FUNCTION`.

    Raises:
        InvalidInputError: no such file or function, or a file that does not run.
    """
    file, colon, name = path.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise InvalidInputError(f"Expected a model as PATH.py:FUNCTION (got '{path}')")
    if not Path(file).is_file():
        raise InvalidInputError(f"Expected a file with function '{name}' (got no '{file}')")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(spec.name, module)  # classes of the file must be found by their module's name
    sys.path.insert(0, str(Path(file).resolve().parent))  # as python does for a script
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InvalidInputError(f"Expected '{file}' to run (got {type(error).__name__}: {error})") from error
    finally:
        sys.path.pop(0)
    function = getattr(module, name, None)
    if not callable(function):
        raise InvalidInputError(f"Expected a function '{name}' in '{file}' (got {type(function).__name__})")
    return function


def _called(function: Callable[..., Any], data: Data, seed: int) -> nn.Module:
    with isolated_rng(seed):
        model = function(data, seed)
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"Expected the function to return a torch module (got {type(model).__name__})")
    return model


def _recipe_model(
    config: InfluenceConfig, data: Data, task: Task, models: Path, bars: bool
) -> tuple[nn.Module, Callable[[Data, int], nn.Module]]:
    recipe = config.recipe
    if config.task == "node_classification":
        recipe = replace(recipe, out_channels=int(labels(data).max()) + 1)

    def train(part: Data, seed: int) -> nn.Module:
        fresh = recipe.model(part, seed).to(part.edge_index.device)
        return run_training(fresh, part, task, recipe.arguments(), seed).model

    return ModelStore(models, recipe, task, bars).base(data, config.seed).model, train


def _single(train: Callable[[Data, int], nn.Module]) -> Callable[[Data, int], nn.Module]:
    """Train in single precision, as the base model was, for a study in double."""

    def wrapped(part: Data, seed: int) -> nn.Module:
        part = copy.copy(part)
        part.x = part.x.float()
        return train(part, seed).double()

    return wrapped


def _node_split(data: Data, seed: int) -> Data:
    """Masks that the data bring (a public split) are kept."""
    return data if "train_mask" in data else node_split(data, seed=seed)
