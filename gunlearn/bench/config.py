"""Configurations of a grid: cells, methods with their options, the recipe of the base model."""

from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gunlearn.bench.cell import IMAGES, Cell, canonical_name
from gunlearn.bench.models import Recipe
from gunlearn.core.devices import resolve_device
from gunlearn.core.options import typed_options
from gunlearn.errors import InvalidInputError, UnsupportedMethodError
from gunlearn.methods import METHODS
from gunlearn.methods.base import Method
from gunlearn.methods.published import build_method
from gunlearn.metrics.base import figures_of
from gunlearn.nn.image_models import IMAGE_BACKBONES
from gunlearn.nn.zoo import BACKBONES
from gunlearn.tasks.named import as_task

#: Settings that can have several values in a suite.
_SEVERAL = ("dataset", "task", "forget", "protocol", "ratio", "count", "region", "by", "recipe")


@dataclass(frozen=True)
class GridConfig:
    """One problem under several seeds, and the methods to run on it; see `suite` for several problems.

    Args:
        dataset, protocol, ratio, count, by, task, forget, forget_file, labels: see `Cell`.
        methods: `name` (every variant) or `name:variant`. The untouched model, the retrained one and `utu` are added.
        root: folder of the raw files.
        region: see `Cell`; `None` is `"in"` for protocol `"inpo"`, else `"any"`.
        seeds: one cell each.
        recipe: of the base model and the retrained references.
        method_args: `method.key=value` for one method, `key=value` for each that has the option. Retraining follows the
            recipe and takes none.
        device: `"cpu"`, `"cuda"` or `"auto"`.
        threads: torch's threads; `None` keeps their number.
        references: retrain twice, for distances and their noise floor, or so many times (at least 2); `False`: there
            is no retrained row, and these figures are `None`.
        models: folder of trained models, to share between grids; `None` is `models` in the output folder.
        metrics: names of figures that are measured only where they are asked for (`gunlearn figures`).

    Raises:
        DatasetNotFoundError: an unknown name.
        InvalidInputError: any other wrong setting.
    """

    dataset: str
    methods: tuple[str, ...]
    root: str | Path | None = None
    protocol: str = "random"
    ratio: float | None = None
    count: int | None = None
    region: str | None = None
    by: str = "random"
    seeds: tuple[int, ...] = (0,)
    recipe: Recipe = field(default_factory=Recipe)
    method_args: tuple[str, ...] = ()
    device: str = "cpu"
    threads: int | None = None
    references: bool | int = True
    models: str | Path | None = None
    task: str = "link_prediction"
    forget: str = "edges"
    forget_file: str | Path | None = None
    labels: tuple[int | str, ...] = ()
    metrics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise InvalidInputError(f"Expected different seeds, at least one (got {list(self.seeds)})")
        if self.threads is not None and self.threads < 1:
            raise InvalidInputError(f"Expected at least one thread (got {self.threads})")
        if not self.references and any(name.partition(":")[0] == "retrain" for name in self.methods):
            raise InvalidInputError("Expected references=True for the method 'retrain' (got references=False)")
        if self.num_references == 1 or self.num_references < 0:
            raise InvalidInputError(
                f"Expected 'references' to be False, True or a number of at least 2 (got {self.references}): the noise "
                "floor is the distance between two"
            )
        images = self.task == IMAGES
        if images != self.recipe.of_images or (not images and self.recipe.batch_size is not None):
            models = sorted(IMAGE_BACKBONES if images else BACKBONES)
            raise InvalidInputError(
                f"Expected a backbone among {models} for task '{self.task}', and 'batch_size' for images alone (got "
                f"{self.recipe.backbone!r}, batch_size={self.recipe.batch_size})"
            )
        resolve_device(self.device)
        figures_of(self.task, self.metrics)
        self.cells()
        self.plan()

    @property
    def num_references(self) -> int:
        """Number of retrained models."""
        return 2 * self.references if isinstance(self.references, bool) else self.references

    def cells(self) -> list[Cell]:
        """Return one cell per seed."""
        region = self.region or ("in" if self.protocol == "inpo" else "any")
        size = self.protocol, self.ratio, self.count, region, self.by
        file = None if self.forget_file is None else str(self.forget_file)
        return [Cell(str(self.dataset), *size, seed, self.task, self.forget, file, self.labels) for seed in self.seeds]

    def objection(self, method: Method) -> str:
        """Return why a method cannot do the problem, as far as its kind tells; empty where it can."""
        try:
            Method.supports(method, as_task(self.task), SimpleNamespace(forgets=(self.cells()[0].kind,)))
        except UnsupportedMethodError as error:
            return str(error)
        return ""

    def plan(self) -> list[Method]:
        """Return each method and variant asked for once, and `utu`, but not `retrain`, which is a reference."""
        labels: list[str] = []
        for entry in self.methods:
            cls, _ = METHODS.variant(entry)
            labels += [entry] if ":" in entry else [f"{entry}:{variant}" for variant in cls.variants]
        names = [label.partition(":")[0] for label in labels]
        for argument in self.method_args:
            if argument.partition("=")[0].strip().startswith("retrain."):
                raise InvalidInputError(
                    f"Expected retraining's settings as those of the base model, such as --epochs (got '{argument}')"
                )
        known = {name: METHODS[name].options() for name in names if name != "retrain"}
        options = typed_options(self.method_args, known, "method")
        plan: dict[str, Method] = {}
        for label in [*(["utu:default"] if "utu" not in names else []), *labels]:  # every method must beat utu
            name = label.partition(":")[0]
            if name == "retrain":
                continue
            given = dict(options.get(name, {}))
            if "dataset" in METHODS[name].options():  # its presets depend on the data set
                given.setdefault("dataset", canonical_name(self.dataset))
            method = build_method(label, given, as_task(self.task))
            plan.setdefault(f"{name} {sorted(method.config().items())}", method)
        return list(plan.values())


def suite(**settings: Any) -> list[GridConfig]:
    """Return one configuration per combination of the settings that are given as lists or tuples.

    A method that supports some of the problems has a row with an `error` on the others.

    Args:
        settings: those of `GridConfig`. `dataset`, `task`, `forget`, `protocol`, `ratio`, `count`, `region`, `by` and
            `recipe` can have several values; the last one given varies fastest. `GridConfig` refuses bad combinations.

    Example:
        >>> grid = suite(dataset="karate", methods=("utu",), forget=("edges", "nodes"), ratio=[0.1, 0.2])
        >>> [(config.forget, config.ratio) for config in grid]
        [('edges', 0.1), ('edges', 0.2), ('nodes', 0.1), ('nodes', 0.2)]
    """
    several = {name: given for name, given in settings.items() if name in _SEVERAL and isinstance(given, list | tuple)}
    chosen = (dict(zip(several, values, strict=True)) for values in product(*several.values()))
    return [GridConfig(**{**settings, **one}) for one in chosen]
