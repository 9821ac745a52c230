"""The user's own graphs on disk: an edge list, and what other files say of its nodes."""

import warnings
from functools import partial
from os import PathLike
from pathlib import Path

from torch_geometric.data import Data

from gunlearn.datasets.assemble import assemble
from gunlearn.datasets.node_tables import read_nodes
from gunlearn.datasets.ogb_folder import is_ogb_folder, read_ogb_folder
from gunlearn.datasets.text_tables import TEXT_ENDINGS, read_table
from gunlearn.errors import DatasetNotFoundError, InvalidInputError

#: Names of files by what they hold, without their endings.
_STEMS = {
    "edges": {"edges", "edge", "edge_list", "edgelist"},
    "features": {"features", "feature", "node_features", "x"},
    "labels": {"labels", "label", "node_labels", "y"},
    "nodes": {"nodes", "node"},
}
_ENDINGS = {"edges": TEXT_ENDINGS} | dict.fromkeys(("features", "labels", "nodes"), (*TEXT_ENDINGS, ".npy", ".npz"))
# Not data, whatever their names say.
_ASIDE = {
    ".md",
    ".rst",
    ".py",
    ".ipynb",
    ".sh",
    ".log",
    ".html",
    ".pdf",
    ".png",
    ".svg",
    ".jpg",
    ".yaml",
    ".yml",
    ".toml",
}
_ASIDE_STEMS = ("readme", "license", "copying", "makefile", "thumbs")


def says_of_nodes(path: Path) -> bool:
    """Return whether a file holds features, labels or both, by its name."""
    stems = set().union(*(names for kind, names in _STEMS.items() if kind != "edges"))
    return path.is_file() and path.name.lower().split(".")[0] in stems


def from_files(
    edges: str | PathLike[str],
    features: str | PathLike[str] | None = None,
    labels: str | PathLike[str] | None = None,
    undirected: bool = True,
    nodes: str | PathLike[str] | None = None,
    sparse: bool = False,
) -> Data:
    """Read a graph from an edge list, features and labels; `docs/data.md` lists what is read.

    Args:
        edges: delimited text, one edge per line: ids of source and target, which are integers or names. Further columns
            need a header (`source,target,weight,time`) and become `edge_weight`, `edge_time`, `edge_type` `[E]`.
        features: `[num_nodes, num_features]` as `.npy`, `.npz` or delimited text; one-hot features when `None`. Rows go
            by a column `id`; without one they are the ids 0, 1, ... or, as many as there are ids, in ascending order.
        labels: a class per node, likewise, as integers or texts; `-1` where there is none; no `y` when `None`.
        undirected: every line stands for both directions.
        nodes: one table of ids, features and labels, in place of both.
        sparse: keep features of scipy's `.npz` as a CSR tensor.

    Returns:
        A graph of one row per node in ascending order of ids. Ids other than 0, 1, ... are in `node_id`, the classes of
        labels that are texts in `label_names`.

    Raises:
        DatasetNotFoundError: a file is missing.
        InvalidInputError: wrong content; the message holds file and line.

    Warns:
        UserWarning: columns that are not read.
    """
    given = {"features": features, "labels": labels, "nodes": nodes}
    readers = [partial(read_nodes, Path(path), kind) for kind, path in given.items() if path is not None]
    return assemble(read_table(Path(edges), 2, "edge"), readers, undirected, sparse)


def from_folder(folder: str | PathLike[str], sparse: bool = False) -> Data:
    """Read a folder with `edges.csv` and, where present, features and labels; or a raw folder of OGB.

    See `from_files`, and `docs/data.md` for the names of files.

    Raises:
        DatasetNotFoundError: no folder, or no edges in it.
        InvalidInputError: wrong content, two files for one thing, or one in a format that is not read.

    Warns:
        UserWarning: files that are not read.
    """
    folder = Path(folder)
    if is_ogb_folder(folder):
        return read_ogb_folder(folder)
    found: dict[str, list[Path]] = {kind: [] for kind in _STEMS}
    unread = []
    for path in sorted(folder.iterdir() if folder.is_dir() else ()):
        stem, _, ending = path.name.lower().partition(".")
        aside = path.is_dir() or not stem or path.suffix.lower() in _ASIDE or stem.startswith(("_", *_ASIDE_STEMS))
        kind = next((kind for kind, stems in _STEMS.items() if stem in stems), None)
        if aside:
            continue
        if kind is None:
            unread.append(path.name)
        elif f".{ending.removesuffix('.gz')}" in _ENDINGS[kind]:
            found[kind].append(path)
        else:
            raise InvalidInputError(
                f"Expected {kind} in one of {', '.join(_ENDINGS[kind])} (got {path.name} in {folder}, which is "
                "not read)"
            )
    for kind, paths in found.items():
        if len(paths) > 1:
            names = ", ".join(path.name for path in paths)
            raise InvalidInputError(f"Expected one file of {kind} in {folder} (got {names})")
    if not found["edges"]:
        beside = f"; {', '.join(unread[:5])} there are not read" if unread else ""
        raise DatasetNotFoundError(
            f"Expected a file with one edge per line at {(folder / 'edges.csv').absolute()} (got no such file{beside})"
        )
    if unread:
        shown = ", ".join(unread[:5]) + (", ..." if len(unread) > 5 else "")
        warnings.warn(
            f"{shown} in {folder} are not read: a graph is in edges, features, labels and nodes", stacklevel=3
        )
    features, labels, nodes = (next(iter(found[kind]), None) for kind in ("features", "labels", "nodes"))
    return from_files(found["edges"][0], features, labels, nodes=nodes, sparse=sparse)
