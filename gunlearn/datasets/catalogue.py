"""The named data sets, and `load`."""

import difflib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import networkx as nx
from torch_geometric.data import Data

from gunlearn.datasets.embedded import digits, karate, lesmis
from gunlearn.datasets.files import from_folder
from gunlearn.datasets.frames import from_pandas, is_frame
from gunlearn.datasets.graph_files import GRAPH_ENDINGS, from_graph_file
from gunlearn.datasets.images import IMAGE_SETS, images_in
from gunlearn.datasets.locate import find_raw, not_found
from gunlearn.datasets.networkx_graphs import from_networkx
from gunlearn.datasets.raw import downloaded, read_citation_npz, read_heterophilous, read_ogb_csv, read_planetoid
from gunlearn.datasets.validate import validate
from gunlearn.datasets.whole_graphs import shapes
from gunlearn.errors import DatasetNotFoundError, GunlearnError, InvalidInputError, InvalidTypeError
from gunlearn.tasks.items.tables import ItemTable

PLANETOID_PARTS = ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")


@dataclass(frozen=True)
class Dataset:
    """A named data set.

    Attributes:
        name: what `load` takes, in upper or lower case.
        nodes: number of nodes.
        edges: directed edges (each undirected edge counts twice); `None` where it is not fixed.
        source: the package it comes from, or PyG's family.
        build: makes an embedded graph; `None` for data sets on disk.
        reader: reads the raw files in a folder, given their names, with sparse features or not; `None` for embedded
            graphs.
        folder: raw folder below the root.
        files: raw files in that folder.
        pyg_name: the name PyG's class takes; `None` where PyG cannot download it.
        homepage: the site that offers the files.
    """

    name: str
    nodes: int
    edges: int | None
    source: str
    build: Callable[[], Data] | None = None
    reader: Callable[[Path, tuple[str, ...], bool], Data] | None = None
    folder: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    pyg_name: str | None = None
    homepage: str | None = None

    @property
    def embedded(self) -> bool:
        """Whether it needs no files and no network."""
        return self.build is not None

    def offline(self, root: str | PathLike[str] | None = None) -> bool:
        """Return whether `load(name, root)` works without a download."""
        return self.embedded or find_raw(self.folder, self.files, root) is not None

    def read(self, raw: Path, sparse: bool) -> Data:
        """Read the raw files of a folder; see `load`."""
        if self.reader is None:
            raise InvalidInputError(f"Expected a data set with raw files (got {self.name!r}, which is embedded)")
        try:
            with warnings.catch_warnings():  # PyG's reader adds a filter of its own, old pickles warn of moved modules
                warnings.simplefilter("ignore")
                return self.reader(raw, self.files, sparse)
        except MemoryError:
            raise
        except Exception as error:  # unpickling and unzipping broken bytes can raise nearly anything
            shown = self.files[0] if len(self.files) == 1 else f"{self.files[0]} and its siblings"
            reason = str(error) if isinstance(error, GunlearnError) else f"{type(error).__name__}: {error}"
            raise InvalidInputError(
                f"Expected readable raw files, {shown} in {raw} (got {reason}); replace the files"
            ) from error


def _planetoid(name: str, nodes: int, edges: int) -> Dataset:
    files = tuple(f"ind.{name.lower()}.{part}" for part in PLANETOID_PARTS)
    return Dataset(name, nodes, edges, "Planetoid", None, read_planetoid, ("Planetoid", name, "raw"), files, name)


def _npz(family: str, name: str, nodes: int, edges: int, file: str, pyg_name: str | None = None) -> Dataset:
    own = pyg_name or name
    return Dataset(name, nodes, edges, family, None, read_citation_npz, (family, own, "raw"), (file,), own)


def _heterophilous(name: str, nodes: int, edges: int, in_pyg: bool = True) -> Dataset:
    family, site = "HeterophilousGraphDataset", "https://github.com/yandex-research/heterophilous-graphs"
    where, files = (family, name, "raw"), (f"{name}.npz",)
    return Dataset(name, nodes, edges, family, None, read_heterophilous, where, files, name if in_pyg else None, site)


_ROWS = [
    Dataset("digits", 1797, None, "scikit-learn", build=digits),
    Dataset("karate", 34, 156, "networkx", build=karate),
    Dataset("lesmis", 77, 508, "networkx", build=lesmis),
    Dataset("shapes", 3090, 10020, "networkx", build=shapes),
    _planetoid("Cora", 2708, 10556),
    _planetoid("CiteSeer", 3327, 9104),
    _planetoid("PubMed", 19717, 88648),
    _npz("CitationFull", "CoraFull", 19793, 126842, "cora.npz", "cora"),
    _npz("CitationFull", "DBLP", 17716, 105734, "dblp.npz", "dblp"),
    _npz("Coauthor", "CS", 18333, 163788, "ms_academic_cs.npz"),
    _npz("Coauthor", "Physics", 34493, 495924, "ms_academic_phy.npz"),
    _npz("Amazon", "Photo", 7650, 238162, "amazon_electronics_photo.npz"),
    _npz("Amazon", "Computers", 13752, 491722, "amazon_electronics_computers.npz"),
    _heterophilous("tolokers", 11758, 1038000),
    _heterophilous("minesweeper", 10000, 78804),
    _heterophilous("chameleon_filtered", 890, 17708, in_pyg=False),
    Dataset(
        "ogbl-collab",
        235868,
        None,  # repeated edges of the published list are merged
        "OGB",
        reader=read_ogb_csv,
        folder=("ogbl_collab", "raw"),
        files=("edge.csv.gz", "node-feat.csv.gz"),
        homepage="https://ogb.stanford.edu/docs/linkprop/#ogbl-collab",
    ),
]

DATASETS: dict[str, Dataset] = {row.name: row for row in _ROWS}


def available() -> list[Dataset]:
    """Return all named data sets, embedded ones first."""
    return list(DATASETS.values())


def find(name: str) -> Dataset:
    """Return the graph of a name, in upper or lower case."""
    by_lower = {known.lower(): row for known, row in DATASETS.items()}
    if name.lower() in by_lower:
        return by_lower[name.lower()]
    names = {known.lower(): known for known in (*DATASETS, *(row.name for row in IMAGE_SETS.values()))}
    close = difflib.get_close_matches(name.lower(), names, n=1)
    guess = f" Did you mean {names[close[0]]!r}?" if close else ""
    if name.lower() in IMAGE_SETS:
        guess = f" {IMAGE_SETS[name.lower()].name!r} are images, for task 'image_classification'."
    raise DatasetNotFoundError(
        f"Expected a data set of {', '.join(DATASETS)}, or a folder with edges.csv (got {name!r}).{guess}"
    )


def load(
    name: str | PathLike[str] | Data | nx.Graph | Any,
    root: str | PathLike[str] | None = None,
    download: bool = False,
    sparse: bool = False,
    images: bool = False,
) -> Any:
    """Load a graph by name or from a folder, or check one in memory; or load images.

    A named graph has `x` `[num_nodes, num_features]` (float32) and `edge_index` `[2, num_edges]` (both directions, no
    self-loops, no duplicates, sorted by source, then target); `y` `[num_nodes]` where there are labels, and the public
    split's masks for Planetoid. Heterophilous graphs have ten splits, masks `[num_nodes, 10]`, of which
    `gunlearn.node_split(data, split=0)` chooses one; until then training on nodes is refused. Rows of `x` sum to 1 for
    PyG's other families. Nothing is written below the root.

    Args:
        name: a name of `available()`, in upper or lower case; or a folder with `edges.csv` (and `features.npy`,
            `labels.npy` or tables of text), see `from_files`; or a raw folder of OGB; or a file in GraphML, GML, GEXF,
            node-link JSON or an edge list; or a `Data`, which is checked and returned; or a networkx graph, see
            `from_networkx`; or a pandas data frame of edges.
        root: folder with one folder per PyG family (`ROOT/CitationFull/dblp/raw/dblp.npz`); when `None`,
            `$GUNLEARN_DATA`, else `./data`. Earlier downloads in `$GUNLEARN_CACHE` (default: the platform's cache
            folder) are found too.
        download: download missing raw files into the cache.
        sparse: return bag-of-words features that are mostly zeros as a CSR tensor, in a fraction of the memory. All of
            this package reads it, and so do models whose first layers are linear maps; others need `x.to_dense()`.
        images: load images where a name stands for a graph too (`"digits"`). `"FashionMNIST"`, `"MNIST"` and a folder
            of idx files are images in any case: a table with `x` `[num_images, 1, height, width]` in [0, 1], `y` and
            the official test images in `test_mask`; `gunlearn.item_split` holds out validation images.

    Returns:
        A graph; ids of nodes other than 0, 1, ... are in `node_id`, by which requests name them.

    Raises:
        DatasetNotFoundError: unknown name, or missing raw files; the message says where they were expected.
        InvalidInputError: broken files, or content that is not understood; the message names file and line.
        InvalidTypeError: `name` is none of the above.

    Warns:
        UserWarning: files, columns or attributes that are not read.
    """
    if isinstance(name, Data):
        return validate(name)
    if isinstance(name, nx.Graph):
        return from_networkx(name)
    if is_frame(name):
        return from_pandas(name)
    pictures = _images(name, root, images)
    if pictures is not None:
        return pictures
    if not isinstance(name, (str, PathLike)):
        raise InvalidTypeError(f"Expected the name of a data set, a folder or a Data (got {type(name).__name__})")
    path = Path(name).expanduser()
    is_path = not isinstance(name, str) or any(mark in name for mark in (os.sep, os.altsep) if mark) or path.exists()
    if is_path and str(name).lower() not in {known.lower() for known in DATASETS}:
        is_one_file = path.is_file() or path.suffix.lower() in GRAPH_ENDINGS
        return from_graph_file(path) if is_one_file else from_folder(path, sparse)
    row = find(str(name))
    if row.build is not None:
        return row.build()
    raw = find_raw(row.folder, row.files, root)
    if raw is not None:
        return row.read(raw, sparse)
    remedy = "In Python, download=True fetches them where there is a network."
    if row.pyg_name is None:
        remedy = f"Get the files from {row.homepage} and unpack them there."
    if row.pyg_name is None or not download:
        raise not_found(row.name, row.folder, row.files, root, remedy)
    with downloaded(row.source, row.pyg_name, row.folder, row.files) as raw:
        return row.read(raw, sparse)


def _images(name: Any, root: str | PathLike[str] | None, asked: bool) -> ItemTable | None:
    """Return the images that a name or a folder stands for; `None` for a graph."""
    known = IMAGE_SETS.get(name.lower()) if isinstance(name, str) else None
    if known is not None and (asked or known.name not in DATASETS):
        return known.read(root)
    folder = Path(name).expanduser() if isinstance(name, str | PathLike) else None
    found = images_in(folder) if folder is not None and folder.is_dir() else None
    if asked and found is None:
        raise DatasetNotFoundError(
            f"Expected images: {', '.join(row.name for row in IMAGE_SETS.values())}, or a folder of idx files such as "
            f"train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz (got {str(name)!r})"
        )
    return found
