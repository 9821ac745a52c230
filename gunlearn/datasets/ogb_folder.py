"""A raw folder of OGB's node property prediction, in the layout that OGB publishes."""

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from gunlearn.datasets.node_ids import of_labels
from gunlearn.datasets.own import as_features, as_labels, build, identity_features
from gunlearn.datasets.text_tables import read_table
from gunlearn.errors import InvalidInputError

_EDGES = {
    "edge-weight.csv.gz": "edge_weight",
    "edge_weight.csv.gz": "edge_weight",
    "edge_year.csv.gz": "edge_time",
    "edge-feat.csv.gz": "edge_attr",
}
_READ = {*_EDGES, "edge.csv.gz", "node-feat.csv.gz", "node-label.csv.gz", "node_year.csv.gz", "num-node-list.csv.gz"}
_MASKS = {"train": "train_mask", "valid": "val_mask", "test": "test_mask"}


def is_ogb_folder(folder: Path) -> bool:
    """Return whether a folder, or `raw` in it, holds `edge.csv.gz` and `num-node-list.csv.gz`."""
    return _raw(folder) is not None


def read_ogb_folder(folder: Path) -> Data:
    """Read one graph with its features, labels and split, from the data set's folder or from `raw` in it.

    Reads `edge.csv.gz`, `num-node-list.csv.gz` and, where present, `edge-weight.csv.gz`, `edge-feat.csv.gz`,
    `edge_year.csv.gz`, `node-feat.csv.gz`, `node-label.csv.gz`, `node_year.csv.gz` of `raw`, beside it
    `split/NAME/{train,valid,test}.csv.gz` as masks and `mapping/nodeidx2*.csv.gz` as `node_id`. Every edge stands for
    both directions; unlabelled nodes (NaN) get the label -1.

    Raises:
        InvalidInputError: several graphs, several labels per node, several splits, or files that do not fit.

    Warns:
        UserWarning: files of `raw` that are not read.
    """
    raw = _raw(folder)
    if raw is None:
        raise InvalidInputError(f"Expected edge.csv.gz and num-node-list.csv.gz in {folder} (got none)")
    sizes = _numbers(raw / "num-node-list.csv.gz", np.int64)
    if sizes.size != 1:
        raise InvalidInputError(f"Expected one graph in {raw} (got {sizes.size})")
    size = int(sizes[0, 0])
    pairs = _numbers(raw / "edge.csv.gz", np.int64)
    if pairs.shape[1] != 2 or pairs.min(initial=0) < 0 or pairs.max(initial=0) >= size:
        got = f"{pairs.shape[1]} columns, ids {pairs.min(initial=0)} to {pairs.max(initial=0)}"
        raise InvalidInputError(f"Expected two columns of ids below {size} in {raw / 'edge.csv.gz'} (got {got})")
    attributes = {
        name: _of_length(raw / file, np.float32, len(pairs), "edge")
        for file, name in _EDGES.items()
        if (raw / file).is_file()
    }
    attributes = {name: value if name == "edge_attr" else value.view(-1) for name, value in attributes.items()}
    features, labels = raw / "node-feat.csv.gz", raw / "node-label.csv.gz"
    x = _of_length(features, np.float32, size, "node") if features.is_file() else identity_features(size)
    y = _labels(labels, size) if labels.is_file() else None
    data = build(torch.from_numpy(pairs.T.copy()), x, y, attributes=attributes)
    if (raw / "node_year.csv.gz").is_file():
        data.node_year = _of_length(raw / "node_year.csv.gz", np.float64, size, "node").long()
    data.update(_masks(raw.parent / "split", size))
    names = sorted((raw.parent / "mapping").glob("nodeidx2*.csv.gz"))
    if len(names) == 1:
        table = read_table(names[0], 2)
        if len(table) != size + 1 or len(table.columns) != 2:
            raise InvalidInputError(
                f"Expected a header and {size} rows of two columns in {names[0]} (got {len(table)} rows)"
            )
        node_id = of_labels(table.columns[1][1:].tolist(), str(names[0]))
        if node_id is not None:
            data.node_id = node_id
    unread = sorted(path.name for path in raw.iterdir() if path.name not in {*_READ, "num-edge-list.csv.gz"})
    if unread:
        warnings.warn(f"{', '.join(unread[:5])} in {raw} are not read", stacklevel=4)
    return data


def _raw(folder: Path) -> Path | None:
    needed = ("edge.csv.gz", "num-node-list.csv.gz")
    return next((raw for raw in (folder, folder / "raw") if all((raw / name).is_file() for name in needed)), None)


def _numbers(path: Path, dtype: type) -> np.ndarray:
    try:
        return np.loadtxt(path, delimiter=",", dtype=dtype, ndmin=2)
    except (OSError, EOFError, ValueError) as error:
        raise InvalidInputError(f"Expected numbers in {path} (got {error})") from error


def _of_length(path: Path, dtype: type, rows: int, noun: str) -> Tensor:
    values = _numbers(path, dtype)
    if len(values) != rows:
        raise InvalidInputError(f"Expected a row per {noun}, {rows}, in {path} (got {len(values)})")
    return as_features(values, str(path)) if dtype is np.float32 else torch.from_numpy(values)


def _labels(path: Path, size: int) -> Tensor:
    values = _numbers(path, np.float64)
    if values.shape[1] != 1:
        raise InvalidInputError(f"Expected one label per node in {path} (got {values.shape[1]} columns)")
    known = np.where(np.isnan(values[:, 0]), -1, values[:, 0])
    if not np.array_equal(known, np.round(known)):
        raise InvalidInputError(
            f"Expected whole numbers as labels in {path} (got {known[known != np.round(known)][0]})"
        )
    return as_labels(known.astype(np.int64), size, str(path))


def _masks(split: Path, size: int) -> dict[str, Tensor]:
    """Return the masks of the one split of a folder; none where there is no folder."""
    names = sorted(path for path in split.iterdir() if (path / "train.csv.gz").is_file()) if split.is_dir() else []
    if len(names) > 1:
        raise InvalidInputError(f"Expected one split in {split} (got {[path.name for path in names]})")
    masks = {}
    for part, name in _MASKS.items() if names else ():
        path = names[0] / f"{part}.csv.gz"
        nodes = _numbers(path, np.int64).ravel()
        if nodes.size and (nodes.min() < 0 or nodes.max() >= size):
            raise InvalidInputError(f"Expected nodes in [0, {size}) in {path} (got {nodes.min()} to {nodes.max()})")
        masks[name] = torch.zeros(size, dtype=torch.bool).index_fill_(0, torch.from_numpy(nodes), True)
    both = sum(mask.long() for mask in masks.values()) if masks else torch.zeros(1)
    if int(torch.as_tensor(both).max()) > 1:
        raise InvalidInputError(f"Expected parts of the split in {names[0]} without common nodes (got some in several)")
    return masks
