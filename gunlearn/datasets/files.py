"""The user's own graphs on disk: an edge list and arrays."""

import re
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from torch_geometric.data import Data

from gunlearn.datasets.own import as_features, as_labels, build, identity_features
from gunlearn.errors import DatasetNotFoundError, InvalidInputError


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _node_id(text: str, where: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]+", text):  # int() would also take "1_000" and other alphabets' digits
        raise InvalidInputError(f"Expected an integer node id in {where} (got {text!r})")
    if text.startswith("-") or len(text) > 10:
        raise InvalidInputError(f"Expected a node id from 0 to 9999999999 in {where} (got {text})")
    return int(text)


def _read_edges(path: Path) -> tuple[np.ndarray, list[int]]:
    """Return the edges `[num_edges, 2]` and the line number of each."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DatasetNotFoundError(
            f"Expected a file with one edge per line at {path.absolute()} (got no such file)"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"Expected {path} to be a readable text file (got {error})") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
    edges: list[tuple[int, int]] = []
    numbers: list[int] = []
    for number, line in lines:
        where = f"{path}, line {number}"
        fields = [field.strip() for field in line.split(",")] if "," in line else line.split()
        if len(fields) != 2:
            got = f"{len(fields)}: {line[:80]!r}"
            raise InvalidInputError(f"Expected 2 columns (source, target) in {where} (got {got})")
        if number == lines[0][0] and not any(_is_number(field) for field in fields):  # a header
            continue
        edges.append((_node_id(fields[0], where), _node_id(fields[1], where)))
        numbers.append(number)
    if not edges:
        raise InvalidInputError(f"Expected at least one edge in {path} (got none)")
    return np.array(edges, dtype=np.int64), numbers


def _read_array(path: Path) -> np.ndarray:
    """Read a .npy array; pickled objects are refused, because reading them runs code."""
    try:
        return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise DatasetNotFoundError(f"Expected a .npy array at {path.absolute()} (got no such file)") from None
    except (OSError, ValueError, EOFError) as error:
        raise InvalidInputError(
            f"Expected {path} to be a plain .npy array (got {type(error).__name__}: {error})"
        ) from error


def from_files(
    edges: str | PathLike[str],
    features: str | PathLike[str] | None = None,
    labels: str | PathLike[str] | None = None,
    undirected: bool = True,
) -> Data:
    """Read a graph from an edge list and arrays.

    Args:
        edges: text file, one edge per line: two node ids (0, 1, ...) separated by a comma or white space; one header
            line, empty lines and lines that start with `#` are allowed.
        features: `.npy` array `[num_nodes, num_features]`; one-hot features when `None`. Rows beyond the ids in `edges`
            are isolated nodes.
        labels: `.npy` array of integers `[num_nodes]`; no `y` when `None`.
        undirected: every line stands for both directions.

    Raises:
        DatasetNotFoundError: a file is missing.
        InvalidInputError: wrong content; for `edges` the message holds the line number.
    """
    path = Path(edges)
    pairs, numbers = _read_edges(path)
    if features is None:
        x = identity_features(int(pairs.max()) + 1)
    else:
        x = as_features(_read_array(Path(features)), str(features))
        too_large = np.flatnonzero(pairs.max(axis=1) >= x.size(0))
        if len(too_large):
            first = too_large[0]
            raise InvalidInputError(
                f"Expected {features} to have a row for each node, at least {pairs.max() + 1} (got {x.size(0)}; "
                f"{path}, line {numbers[first]} names node {pairs[first].max()})"
            )
    y = None if labels is None else as_labels(_read_array(Path(labels)), x.size(0), str(labels))
    return build(torch.from_numpy(pairs).t(), x, y, undirected)


def from_folder(folder: str | PathLike[str]) -> Data:
    """Read `edges.csv` of a folder and, where present, `features.npy` and `labels.npy`; see `from_files`."""
    edges, *arrays = (Path(folder) / name for name in ("edges.csv", "features.npy", "labels.npy"))
    features, labels = (path if path.exists() else None for path in arrays)
    return from_files(edges, features, labels)
