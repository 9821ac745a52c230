"""Readers and downloads of raw files in the layouts of PyG and OGB; readers write nothing."""

import contextlib
import io
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from torch_geometric.data import Data
from torch_geometric.io import read_npz, read_planetoid_data
from torch_geometric.transforms import NormalizeFeatures
from torch_geometric.utils import from_scipy_sparse_matrix

from gunlearn.datasets.locate import cache_folder, missing_files, writable_cache
from gunlearn.datasets.own import as_features, as_labels, build
from gunlearn.errors import DatasetNotFoundError, InvalidInputError
from gunlearn.nn.kernels.bag_of_words import MAX_DENSITY


def _canonical(data: Data) -> Data:
    """Make edges undirected and distinct, drop self-loops, scale rows of `x` to sum 1, keep PyG's split masks."""
    if data.y.size(0) != data.x.size(0):
        raise InvalidInputError(f"Expected one label per node, {data.x.size(0)} (got {data.y.size(0)})")
    graph = build(data.edge_index, data.x, data.y)
    graph.update({key: value for key, value in data.items() if key.endswith("_mask")})
    return graph if graph.x.layout == torch.sparse_csr else NormalizeFeatures()(graph)


def read_citation_npz(raw: Path, files: tuple[str, ...], sparse: bool = False) -> Data:
    """Read one `.npz` of CitationFull, Coauthor or Amazon; features become 0/1 before rows are normalised.

    With `sparse`, features that are mostly zeros become CSR, without a dense copy.
    """
    if not sparse:
        return _canonical(read_npz(str(raw / files[0]), to_undirected=True))
    with np.load(raw / files[0]) as file:
        x, adjacency = (
            sp.csr_matrix(tuple(file[f"{key}_{part}"] for part in ("data", "indices", "indptr")), file[f"{key}_shape"])
            for key in ("attr", "adj")
        )
        y = torch.from_numpy(file["labels"]).long()
    x.data = (x.data > 0).astype(np.float32)
    x.eliminate_zeros()
    count = np.diff(x.indptr)
    x.data /= np.repeat(count, count)
    return _canonical(Data(x=as_csr(x), edge_index=from_scipy_sparse_matrix(adjacency)[0], y=y))


def as_csr(x: sp.csr_matrix) -> torch.Tensor:
    """Return a scipy matrix as a CSR tensor with sorted columns; as a dense one above a density of `MAX_DENSITY`."""
    if x.nnz > MAX_DENSITY * x.shape[0] * x.shape[1]:
        return torch.from_numpy(x.toarray())
    x.sort_indices()
    pointer, col = (torch.from_numpy(index.astype(np.int64)) for index in (x.indptr, x.indices))
    return torch.sparse_csr_tensor(pointer, col, torch.from_numpy(x.data), size=x.shape)


def read_planetoid(raw: Path, files: tuple[str, ...], sparse: bool = False) -> Data:
    """Read the eight `ind.NAME.*` files of Planetoid. They are pickles: only read them from sources you trust."""
    data = _canonical(read_planetoid_data(str(raw), files[0].split(".")[1]))
    if sparse:
        data.x = as_csr(sp.csr_matrix(data.x.numpy()))
    return data


def read_heterophilous(raw: Path, files: tuple[str, ...], sparse: bool = False) -> Data:
    """Read the `.npz` of a heterophilous graph; masks `[num_nodes, num_splits]`, a column per published split.

    Features are not normalised: they are rates and categories, and the published results read them so.
    """
    with np.load(raw / files[0], allow_pickle=False) as file:
        x, edges = as_features(file["node_features"], "node_features"), torch.from_numpy(file["edges"]).long()
        y = as_labels(file["node_labels"], x.size(0), "node_labels")
        masks = {f"{part}_mask": torch.from_numpy(file[f"{part}_masks"]).t() for part in ("train", "val", "test")}
    for name, mask in masks.items():
        if mask.dtype != torch.bool or mask.dim() != 2 or mask.size(0) != x.size(0):
            raise InvalidInputError(
                f"Expected {name}s to be boolean [num_splits, {x.size(0)}] (got {list(mask.t().shape)} of {mask.dtype})"
            )
    graph = build(edges.t(), as_csr(sp.csr_matrix(x.numpy())) if sparse else x, y)
    graph.update({name: mask.contiguous() for name, mask in masks.items()})
    return graph


def read_ogb_csv(raw: Path, files: tuple[str, ...], sparse: bool = False) -> Data:
    """Read OGB's `edge.csv.gz` and `node-feat.csv.gz`: the training edges, as OGB publishes the graph.

    Edge weights and years are left out, repeated edges are merged, and features (embeddings) are not normalised.
    """
    edges = np.loadtxt(raw / "edge.csv.gz", delimiter=",", dtype=np.int64, ndmin=2)
    features = np.loadtxt(raw / "node-feat.csv.gz", delimiter=",", dtype=np.float32, ndmin=2)
    return build(torch.from_numpy(edges.T.copy()), torch.from_numpy(features))


@contextlib.contextmanager
def downloaded(family: str, name: str, folder: tuple[str, ...], files: tuple[str, ...]) -> Iterator[Path]:
    """Download with PyG's own class and yield the raw folder; keep it in the cache if that is writable.

    The download is renamed into place from a temporary folder: parallel downloads never see each other's partial files.
    """
    import torch_geometric.datasets  # a second of import time that only downloads need

    pyg_class = getattr(torch_geometric.datasets, family)

    class _RawOnly(pyg_class):  # type: ignore[misc, valid-type]
        def process(self) -> None:
            """Do nothing: our readers work on the raw files."""

        def load(self, path: str, *args: object) -> None:
            """Do nothing: there is no processed file."""

    cache = writable_cache()
    with tempfile.TemporaryDirectory(prefix="download-", dir=cache) as scratch:
        raw = Path(scratch).joinpath(*folder)
        try:
            with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                _RawOnly(str(Path(scratch) / family), name)
        except Exception as error:  # URL, socket, zip and file system errors of several libraries
            raise DatasetNotFoundError(
                f"Expected to download {family} {name!r} with torch_geometric (got {type(error).__name__}: {error})"
            ) from error
        lacking = missing_files(raw, files)
        if lacking:
            raise DatasetNotFoundError(
                f"Expected the download of {name!r} to bring {', '.join(files)} (got no {lacking[0]})"
            )
        if cache is None:
            warnings.warn(
                f"The cache {cache_folder()} cannot be written, so the download is not kept: set GUNLEARN_CACHE.",
                stacklevel=4,
            )
            yield raw
            return
        target = cache.joinpath(*folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # another process was first: its files are the same
            os.replace(raw, target)
        yield raw if missing_files(target, files) else target
