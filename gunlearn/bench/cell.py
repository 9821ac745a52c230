"""Cells: the problems of a grid."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch_geometric.data import Data

from gunlearn.bench.forget_file import read_request
from gunlearn.bench.hard_requests import HARD_REQUESTS
from gunlearn.core.checks import check_choice
from gunlearn.datasets.catalogue import DATASETS, find, load
from gunlearn.datasets.images import IMAGE_SETS
from gunlearn.errors import InvalidInputError
from gunlearn.requests.base import Request
from gunlearn.requests.edges import ForgetEdges
from gunlearn.requests.items import ForgetItems
from gunlearn.requests.nodes import ForgetFeatures, ForgetGraphs, ForgetNodes
from gunlearn.tasks.graph.node_classification import MASKS
from gunlearn.tasks.graph.splits import graph_split, link_split, node_split
from gunlearn.tasks.items.item_splits import item_split

#: Tasks of grids and of studies of influence.
GRAPH_TASKS = ("link_prediction", "node_classification", "graph_classification")
IMAGES = "image_classification"
_FORGET: dict[str, Callable[..., Request]] = {
    "edges": ForgetEdges,
    "nodes": ForgetNodes,
    "features": ForgetFeatures,
    "graphs": ForgetGraphs,
    "items": ForgetItems,
}


@dataclass(frozen=True)
class Cell:
    """One problem of a grid: with the recipe, it determines the base model, the forget set and the references.

    Args:
        dataset: a name, or a folder or file of a graph, or a folder of images, see `gunlearn.datasets.load`.
        protocol: `"random"`, or `"inpo"` for the split and the forget set of the official code; under node
            classification `"public"` for the data's own split, of several the one that has the seed's number.
        ratio: share of training edges (or nodes) to forget; `None` with `count`.
        count: number of them; `None` with `ratio`.
        region: where edges lie, see `ForgetEdges`; protocol `"inpo"` takes `"in"` only.
        by: order of the draw, see `ForgetEdges`.
        seed: of the split, the draw, the base model and the methods.
        task: `"link_prediction"`, `"node_classification"`, `"graph_classification"` or `"image_classification"`.
        forget: `"edges"`, `"nodes"`, `"features"`, or `"graphs"` under graph classification, or `"items"` under image
            classification; or one of `gunlearn.bench.hard_requests`, most of which change the data to train on:
            `"flipped_labels"` (so many training nodes of another class), `"planted_edges"` (between classes),
            `"classes"` (so many whole ones, of nodes or images).
        forget_file: a file of the ids to forget, see `read_request`, in place of a draw by `ratio` or `count`.
        labels: the classes to forget with `forget="classes"`, in place of a draw of `count` of them.

    Raises:
        DatasetNotFoundError: an unknown name.
        InvalidInputError: a wrong setting, or settings that contradict each other.
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
    forget_file: str | None = None
    labels: tuple[int | str, ...] = ()

    def __post_init__(self) -> None:
        check_choice("protocol", self.protocol, ("random", "inpo", "public"))
        check_choice("task", self.task, (*GRAPH_TASKS, IMAGES))
        check_choice("forget", self.forget, (*_FORGET, *HARD_REQUESTS))
        hard = HARD_REQUESTS.get(self.forget)
        if hard is not None and (self.task not in hard.tasks or self.forget_file is not None):
            raise InvalidInputError(
                f"Expected a task among {hard.tasks} and no forget file to forget '{self.forget}' (got '{self.task}'"
                f"{'' if self.forget_file is None else ' and a file'})"
            )
        if self.labels and (self.forget != "classes" or self.count is not None or self.ratio is not None):
            raise InvalidInputError(
                f"Expected 'labels' to forget 'classes', without 'count' and 'ratio' (got forget='{self.forget}', "
                f"count={self.count}, ratio={self.ratio})"
            )
        if self.forget == "classes" and not self.labels and (self.count is None or self.by != "random"):
            raise InvalidInputError(
                "Expected 'count', a number of classes, or 'labels' to forget classes (got "
                f"ratio={self.ratio}, by='{self.by}')"
            )
        if (self.task == IMAGES) != (self.kind == "items") or (self.kind == "items" and self.by != "random"):
            raise InvalidInputError(
                f"Expected forget 'items' or 'classes' and by='random' under task '{IMAGES}', and other things under "
                f"others (got '{self.forget}', by='{self.by}' under '{self.task}')"
            )
        if self.forget == "planted_edges" and self.by != "random":
            raise InvalidInputError(f"Expected by='random' to plant edges, which are in no graph yet (got '{self.by}')")
        if self.forget == "graphs" and self.task != "graph_classification":
            raise InvalidInputError(f"Expected task 'graph_classification' to forget graphs (got '{self.task}')")
        if self.seed < 0:
            raise InvalidInputError(f"Expected seeds >= 0 (got {self.seed})")
        if self.protocol == "public" and self.task != "node_classification":
            raise InvalidInputError(f"Expected task 'node_classification' for protocol 'public' (got '{self.task}')")
        anywhere = self.protocol in ("random", "public") and self.region == "any"
        if (self.task, self.forget) != ("link_prediction", "edges") and not anywhere:
            raise InvalidInputError(
                "Expected protocol 'random' and region 'any', except for edges under link prediction "
                f"(got '{self.protocol}' and '{self.region}')"
            )
        if self.protocol == "inpo" and self.region != "in":
            raise InvalidInputError(
                f"Expected region 'in' with protocol 'inpo', whose code draws nowhere else (got '{self.region}')"
            )
        named = Path(self.dataset).name == self.dataset and not Path(self.dataset).is_dir()
        if named and not (self.task == IMAGES and self.dataset.lower() in IMAGE_SETS):
            find(self.dataset)
        if self.forget != "classes":
            self.request()

    @property
    def name(self) -> str:
        """Name of the data set in tables; for a path, that of the folder."""
        return canonical_name(self.dataset) or Path(self.dataset).name

    @property
    def kind(self) -> str:
        """Kind of the things to forget: `"edges"`, `"nodes"`, `"features"`, `"graphs"` or `"items"`."""
        hard = HARD_REQUESTS.get(self.forget)
        return self.forget if hard is None else "items" if self.task == IMAGES else hard.kind

    def load(self, root: str | Path | None, sparse: bool, batch_size: int | None = None) -> Any:
        """Return the data, for images with the number of those that a step reads."""
        if self.task != IMAGES:
            return load(self.dataset, root, sparse=sparse)
        data = load(self.dataset, root, images=True)
        if batch_size is not None:
            data.batch_size = batch_size
        return data

    def prepare(self, data: Data) -> tuple[Data, Request]:
        """Return the data to train on, split, and the request; see `split` and `hard_requests`."""
        data, hard = self.split(data), HARD_REQUESTS.get(self.forget)
        return (data, self.request()) if hard is None else hard.make(data, self)

    def request(self) -> Request:
        if self.forget_file is not None:
            given = (self.ratio, self.count, self.region, self.by)
            if given != (None, None, "any", "random") or self.protocol == "inpo":
                raise InvalidInputError(
                    f"Expected no settings of a draw (ratio, count, region, ...) beside a forget file (got {given})"
                )
            return read_request(self.forget_file, self.forget)
        drawn: dict[str, Any] = {"ratio": self.ratio, "count": self.count, "seed": self.seed}
        if self.kind != "items":
            drawn["by"] = self.by
        if self.kind == "edges":
            drawn |= {"region": self.region, "protocol": "inpo" if self.protocol == "inpo" else None}
        return _FORGET[self.kind](**drawn)

    def settings(self) -> dict[str, Any]:
        """Return what rows hold of the cell: not the name of a forget file, which may say who is in it."""
        left_out = {"forget_file"} | (set() if self.labels else {"labels"})
        return {name: value for name, value in asdict(self).items() if name not in left_out}

    def split(self, data: Data) -> Data:
        """Return the data with a split into training, validation and test items, drawn under the cell's seed."""
        if self.task == IMAGES:
            return item_split(data, seed=self.seed)
        check_number_of_graphs(data, self.task, self.name)
        if self.task == "graph_classification":
            return graph_split(data, seed=self.seed)
        if self.task == "node_classification":
            return node_split(data, split=self.seed) if self.protocol == "public" else node_split(data, seed=self.seed)
        data = link_split(data, seed=self.seed, protocol=self.protocol)
        for name in set(MASKS) & set(data.keys()):  # link prediction has no masks of nodes
            del data[name]
        return data


def check_number_of_graphs(data: Data, task: str, name: str) -> None:
    """Refuse one graph for a task on graphs, and many for one within a graph; `name` is that of the data set."""
    many = isinstance(data.get("batch"), Tensor)
    if many != (task == "graph_classification"):
        raise InvalidInputError(
            f"Expected {'another data set' if many else 'a data set of many graphs'} for task '{task}' (got '{name}', "
            f"{'many graphs' if many else 'one graph'})"
        )


def canonical_name(dataset: str | Path) -> str | None:
    """Return the name of a data set as tables write it; `None` for a folder."""
    known = (*DATASETS, *(row.name for row in IMAGE_SETS.values()))
    return next((name for name in known if name.lower() == str(dataset).lower()), None)
