"""What a grid is made of: the cells, the methods with their options, the recipe of the base model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch_geometric.data import Data

from gunlearn.bench.models import Recipe
from gunlearn.bench.options import method_options
from gunlearn.datasets.catalogue import DATASETS
from gunlearn.errors import InvalidInputError
from gunlearn.methods import METHODS
from gunlearn.methods.base import Method
from gunlearn.requests.base import Request
from gunlearn.requests.edges import ForgetEdges
from gunlearn.requests.nodes import ForgetFeatures, ForgetNodes
from gunlearn.tasks.graph.node_classification import MASKS
from gunlearn.tasks.graph.splits import link_split, node_split

TASKS = ("link_prediction", "node_classification")
FORGET: dict[str, type[Request]] = {"edges": ForgetEdges, "nodes": ForgetNodes, "features": ForgetFeatures}


@dataclass(frozen=True)
class Cell:
    """One problem of a grid: everything that the base model, the forget set and the references depend on.

    Args:
        dataset: what `gunlearn.datasets.load` takes.
        protocol: `"random"`, or `"inpo"` for the split and the forget set of the official code.
        ratio: share of training edges (or nodes) to forget; `None` with `count`.
        count: number of them; `None` with `ratio`.
        region: where edges lie, see `ForgetEdges`.
        by: order of the draw, see `ForgetEdges`.
        seed: of the split, the draw, the base model and the methods.
        task: what is predicted, one of `TASKS`.
        forget: what is forgotten, one of `FORGET`.
    """

    dataset: str
    protocol: str
    ratio: float | None
    count: int | None
    region: str
    by: str
    seed: int
    task: str = "link_prediction"
    forget: str = "edges"

    @property
    def name(self) -> str:
        """Name of the data set in tables: the folder's for a path."""
        return canonical_name(self.dataset) or Path(self.dataset).name

    def request(self) -> Request:
        """The request, drawn under the cell's seed."""
        if self.forget == "edges":
            return ForgetEdges(
                ratio=self.ratio,
                count=self.count,
                region=self.region,
                by=self.by,
                seed=self.seed,
                protocol="inpo" if self.protocol == "inpo" else None,
            )
        return FORGET[self.forget](ratio=self.ratio, count=self.count, by=self.by, seed=self.seed)

    def split(self, data: Data) -> Data:
        """Training, validation and test sets of the task, drawn under the cell's seed."""
        if self.task == "link_prediction":
            data = link_split(data, seed=self.seed, protocol=self.protocol)
            for name in MASKS:  # of nodes, which this task knows nothing of
                if name in data:
                    del data[name]
            return data
        return node_split(data, seed=self.seed)


@dataclass(frozen=True)
class GridConfig:
    """A grid of seeds and methods on one data set.

    Args:
        dataset: a name, or a folder with `edges.csv` and `features.npy`.
        methods: `name` (every variant) or `name:variant`. The untouched model and the retrained one are always added.
        root: folder of the raw files.
        protocol: see `Cell`.
        ratio: see `Cell`.
        count: see `Cell`.
        region: see `Cell`; `None` is `"any"`, with protocol `"inpo"` the only one that it knows, `"in"`.
        by: see `Cell`.
        seeds: one cell each.
        recipe: of the base model and the retrained references.
        method_args: `key=value` or `method.key=value`.
        device: `"cpu"`, `"cuda"` or `"auto"`.
        threads: torch's threads; `None` leaves them.
        task: see `Cell`.
        forget: see `Cell`.
        references: retrain twice, for distances and their noise floor; without, those figures are `None`.
        models: folder of trained models, to share between grids; `None` is `models` in the output folder.

    Raises:
        InvalidInputError: anything that can be refused before data are read.
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
    references: bool = True
    models: str | Path | None = None
    task: str = "link_prediction"
    forget: str = "edges"

    def __post_init__(self) -> None:
        """Refuse what cannot be meant, before hours of training."""
        if self.protocol not in ("random", "inpo"):
            raise InvalidInputError(f"Expected a protocol 'random' or 'inpo' (got '{self.protocol}')")
        if self.task not in TASKS or self.forget not in FORGET:
            raise InvalidInputError(
                f"Expected a task of {TASKS} and a forget of {sorted(FORGET)} (got '{self.task}' and '{self.forget}')"
            )
        if (self.task, self.forget) != ("link_prediction", "edges") and (
            self.protocol != "random" or self.region not in (None, "any")
        ):
            raise InvalidInputError(
                "Expected protocol 'random' and region 'any' but for edges under link prediction "
                f"(got '{self.protocol}' and '{self.region}')"
            )
        if self.protocol == "inpo" and self.region not in (None, "in"):
            raise InvalidInputError(
                f"Expected region 'in' with protocol 'inpo', whose code draws nowhere else (got '{self.region}')"
            )
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise InvalidInputError(f"Expected different seeds >= 0, at least one (got {list(self.seeds)})")
        if self.threads is not None and self.threads < 1:
            raise InvalidInputError(f"Expected at least one thread (got {self.threads})")
        recipe = self.recipe
        for name in ("eval_every", "hidden_channels", "out_channels", "num_layers"):
            if getattr(recipe, name) < 1:
                raise InvalidInputError(f"Expected '{name}' of at least 1 (got {getattr(recipe, name)})")
        recipe.arguments()
        for cell in self.cells():
            cell.request()
        self.plan()

    def cells(self) -> list[Cell]:
        """One cell per seed."""
        region = self.region or ("in" if self.protocol == "inpo" else "any")
        return [
            Cell(
                str(self.dataset), self.protocol, self.ratio, self.count, region, self.by, seed, self.task, self.forget
            )
            for seed in self.seeds
        ]

    def plan(self) -> list[Method]:
        """Every method in every variant asked for, once each, and `utu`; `retrain` is a reference anyway."""
        labels = []
        for entry in self.methods:
            name, _, variant = entry.partition(":")
            if name not in METHODS:
                raise InvalidInputError(f"Expected a method among {sorted(METHODS)} (got '{name}')")
            if variant and variant not in METHODS[name].variants:
                known = sorted(METHODS[name].variants)
                raise InvalidInputError(f"Expected a variant of '{name}' among {known} (got '{variant}')")
            labels += [entry] if variant else [f"{name}:{known}" for known in METHODS[name].variants]
        options = method_options(self.method_args, [label.partition(":")[0] for label in labels])
        plan: dict[str, Method] = {}
        known = {label.partition(":")[0] for label in labels}
        for label in [*(["utu:default"] if "utu" not in known else []), *labels]:  # what all must beat
            name = label.partition(":")[0]
            if name == "retrain":
                continue
            given = dict(options.get(name, {}))
            if "dataset" in METHODS[name].options():  # presets that go by the data set
                given.setdefault("dataset", canonical_name(self.dataset))
            method = METHODS.build(label, given)
            plan.setdefault(f"{name} {sorted(method.config().items())}", method)
        return list(plan.values())


def canonical_name(dataset: str | Path) -> str | None:
    """A named data set's name as it is written in tables; `None` for a folder."""
    return next((name for name in DATASETS if name.lower() == str(dataset).lower()), None)
