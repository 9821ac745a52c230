"""Studies of influence with data, base model and files."""

import copy
import io
import json
import zipfile
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch_geometric.data import Data

from gunlearn.attribution import ESTIMATORS
from gunlearn.attribution.distinct_items import ITEM_KINDS
from gunlearn.attribution.study.study import Study, influence_study
from gunlearn.attribution.study.truths import truth_estimator, truth_named
from gunlearn.attribution.targets import INFLUENCE_TARGETS
from gunlearn.bench.cell import GRAPH_TASKS, canonical_name, check_number_of_graphs
from gunlearn.bench.grid import threads
from gunlearn.bench.models import ModelStore, Recipe, data_hash
from gunlearn.bench.own_model import own_model
from gunlearn.bench.store import RowStore, atomic_write, csv_text, json_plain
from gunlearn.core.atomic import check_writable
from gunlearn.core.checks import check_choice
from gunlearn.core.devices import resolve_device
from gunlearn.core.digest import state_hash
from gunlearn.core.options import parse_pair, typed_options
from gunlearn.core.owner_key import keyed_hash
from gunlearn.datasets.catalogue import load
from gunlearn.errors import CheckpointError, InvalidInputError
from gunlearn.tasks.graph.splits import graph_split, link_split, node_split
from gunlearn.tasks.named import as_task
from gunlearn.training.result import versions

#: File of finished rows with their scores in an output folder.
STUDY_ROWS_FILE = "influence-rows.jsonl"


@dataclass(frozen=True)
class InfluenceConfig:
    """A study on one data set.

    Args:
        dataset, root, device, threads, models: see `GridConfig`.
        estimators, of, target, truth, num_items, truth_items: see `influence_study`.
        task: `"link_prediction"`, `"node_classification"` or `"graph_classification"`.
        seed: of the split, the base model, samples, estimators and bootstrap.
        recipe: of the base model.
        model: `PATH.py:FUNCTION`, a function `(data, seed) -> trained model` in place of the recipe.
        estimator_args: `key=value` or `estimator.key=value`.
        truth_args: `key=value`.
        double: study the trained model in double precision; training influence of single edges needs it.

    Raises:
        InvalidInputError: an unknown task, estimator, truth, target, kind of items, device or option, or a number out
            of range.
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
        check_choice("task", self.task, GRAPH_TASKS)
        check_choice("of", self.of, ITEM_KINDS)
        check_choice("target", self.target, tuple(INFLUENCE_TARGETS))
        resolve_device(self.device)
        unknown = sorted(set(self.estimators or ()) - set(ESTIMATORS))
        if unknown:
            raise InvalidInputError(f"Expected estimators among {sorted(ESTIMATORS)} (got {unknown})")
        if self.seed < 0 or (self.threads is not None and self.threads < 1):
            raise InvalidInputError(f"Expected a seed >= 0 and threads >= 1 (got {self.seed}, {self.threads})")
        for name in ("num_items", "truth_items"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InvalidInputError(f"Expected '{name}' of at least 1 (got {getattr(self, name)})")
        options, of_truth = self.estimator_options(), self.truth_options()
        truth_named(self.truth, {**options.get(truth_estimator(self.truth), {}), **of_truth})

    def estimator_options(self) -> dict[str, dict[str, Any]]:
        known = {name: ESTIMATORS[name].options() for name in self.estimators or ESTIMATORS}
        options = typed_options(self.estimator_args, known, "estimator")
        return {name: given for name, given in options.items() if given}

    def truth_options(self) -> dict[str, Any]:
        """Return the options of the truth; the study checks their names."""
        return dict(parse_pair(argument, "a truth argument") for argument in self.truth_args)


class FinishedRows(MutableMapping[str, Any]):
    """Rows of a study with their scores on disk, one JSON line each.

    Args:
        path: the file.
        settings: a hash of everything that rows depend on beside their own key.
    """

    def __init__(self, path: Path, settings: str) -> None:
        self.store, self.settings = RowStore(path), settings
        self.held = self.store.read()

    def __getitem__(self, key: str) -> dict[str, Any]:
        held = self.held[f"{self.settings} {key}"]
        return {"row": held["row"], "scores": torch.tensor(held["scores"], dtype=getattr(torch, held["dtype"]))}

    def __setitem__(self, key: str, value: dict[str, Any]) -> None:
        scores = value["scores"]
        line = {"key": f"{self.settings} {key}", "row": json_plain(value["row"]), "scores": scores.tolist()}
        self.held[line["key"]] = self.store.add(line | {"dtype": str(scores.dtype).removeprefix("torch.")})

    def __delitem__(self, key: str) -> None:
        del self.held[f"{self.settings} {key}"]

    def __iter__(self) -> Iterator[str]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)


def _settings_hash(config: InfluenceConfig, data: Data, model: nn.Module) -> str:
    """Return a hash of data, model and all settings but those of single estimators, which their keys hold."""
    plain = {name: getattr(config, name) for name in ("dataset", "task", "of", "target", "truth", "seed", "double")}
    whole = [versions()["gunlearn"], data_hash(data), state_hash(model), plain, config.truth_args, config.num_items]
    whole += [config.truth_items, type(model).__name__, str(config.device)]
    return keyed_hash(json.dumps(whole, default=str).encode(), "row", 20)


def run_influence(
    config: InfluenceConfig, out: str | Path, report: Callable[[dict[str, Any]], None] | None = None, bars: bool = False
) -> Study:
    """Train or load the base model, run the study, write its files (see `write_study`) into the folder `out`.

    Each finished row is kept there with its scores: a killed study that is started again goes on from them.

    `report` is called with each finished row; `bars` shows the progress of training.

    Raises:
        GunlearnError: there is no data, model or truth. An estimator that fails has a row with an `error`.
    """
    check_writable(out)
    task = as_task(config.task)
    own = None if config.model is None else own_model(config.model)
    with threads(config.threads):
        data = load(config.dataset, config.root, sparse=own is None)
        name = canonical_name(config.dataset) or Path(config.dataset).resolve().name
        check_number_of_graphs(data, config.task, name)
        data = _SPLITS[config.task](data, config.seed).to(resolve_device(config.device))
        if own is None:
            store = ModelStore(config.models or Path(out) / "models", config.recipe, task, bars)
            model, train = store.base(data, config.seed).model, lambda part, seed: store.train(part, seed).model
        else:
            model, train = own(data, config.seed), own
        if config.double:
            model, data = copy.deepcopy(model).double(), copy.copy(data)
            data.x, train = data.x.double(), _single(train)
        study = influence_study(
            model, data, task, of=config.of, target=config.target, estimators=config.estimators, truth=config.truth,
            num_items=config.num_items, truth_items=config.truth_items, seed=config.seed,
            options=config.estimator_options(), truth_options=config.truth_options(), train=train,
            dataset=name, report=report,
            finished=FinishedRows(Path(out) / STUDY_ROWS_FILE, _settings_hash(config, data, model)),
        )  # fmt: skip
    if own is None:
        study.settings["recipe"] = vars(config.recipe)
    write_study(study, out)
    return study


def write_study(study: Study, out: str | Path) -> None:
    """Write `influence.json` (rows), `influence.csv`, and `influence.npz` (items, scores, settings) into a folder."""
    out = Path(out)
    rows = json_plain(study.rows)
    atomic_write(out / "influence.json", json.dumps(rows, indent=1, allow_nan=False) + "\n")
    atomic_write(out / "influence.csv", csv_text(rows))
    arrays: dict[str, Any] = {f"estimate/{name}": scores.numpy() for name, scores in study.estimates.items()}
    arrays |= {"items": study.items.numpy(), "truth": study.truth.numpy()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays, settings=np.array(json.dumps(json_plain(study.settings))))
    atomic_write(out / "influence.npz", buffer.getvalue())


def read_study(directory: str | Path) -> Study:
    """Read what `write_study` wrote, or raise CheckpointError where there is no such study."""
    directory = Path(directory)
    try:
        rows = json.loads((directory / "influence.json").read_text(encoding="utf-8"))
        with np.load(directory / "influence.npz", allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
        settings = json.loads(str(arrays.pop("settings")))
        items, truth = torch.from_numpy(arrays.pop("items")), torch.from_numpy(arrays.pop("truth"))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"Expected the output folder of 'gunlearn influence' with influence.json and influence.npz "
            f"(got {directory}: {error})"
        ) from error
    estimates = {name.removeprefix("estimate/"): torch.from_numpy(scores) for name, scores in arrays.items()}
    return Study(rows, items, truth, estimates, settings)


def _single(train: Callable[[Data, int], nn.Module]) -> Callable[[Data, int], nn.Module]:
    """Train in single precision, as the base model was, and return the model in double."""

    def wrapped(part: Data, seed: int) -> nn.Module:
        part = copy.copy(part)
        part.x = part.x.float()
        return train(part, seed).double()

    return wrapped


def _node_split(data: Data, seed: int) -> Data:
    """Draw masks, unless the data have some: a public split, or several, of which the seed's number is taken."""
    if "train_mask" not in data:
        return node_split(data, seed=seed)
    return node_split(data, split=seed) if data.train_mask.dim() == 2 else data


_SPLITS: dict[str, Callable[[Data, int], Data]] = {
    "link_prediction": lambda data, seed: link_split(data, seed=seed),
    "node_classification": _node_split,
    "graph_classification": lambda data, seed: graph_split(data, seed=seed),
}
