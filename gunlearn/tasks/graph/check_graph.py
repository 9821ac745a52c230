"""The check of a graph at every entry point: contradictions are refused, and what is likely wrong is warned of."""

import copy
import warnings
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.requests.graph_tensors import GONE, MASKS, check_node_ids, num_graphs, pair_tensor, relation_tensor
from gunlearn.requests.list_names import SPLIT_PAIRS, is_list
from gunlearn.requests.no_graph import graph_instead
from gunlearn.requests.prepared import is_prepared

#: Attributes that models read along the columns of `edge_index`.
ALONG_EDGES = ("edge_weight", "edge_attr", "edge_type")
EDGE_MASKS = ("edge_mask", "train_edge_mask", "val_edge_mask", "test_edge_mask")
_LISTS_OF_THEIR_OWN = ("index", "label", "pos", "neg", "split", "train", "val", "test", "num_", "mask")


def check_graph(data: Any) -> Data:
    """Return `checked_graph(data)`; prepared data (`gunlearn.prepare`) were checked then, and are as they were.

    Raises:
        ChangedDataError: prepared data that have changed since.
        InvalidTypeError: see `checked_graph`.
        InvalidInputError: see `checked_graph`.
    """
    return data if is_prepared(data) else checked_graph(data)


def checked_graph(data: Any) -> Data:
    """Return a graph that a model can read: `data` itself, or a copy with plain tensors in place of PyG's `EdgeIndex`.

    Args:
        data: `edge_index` `[2, E]` (int64, ids in `[0, num_nodes)`); where there are, finite features `x`
            `[num_nodes, ...]` (dense or CSR), `edge_weight`, `edge_attr` and `edge_type` with `E` entries, `node_type`
            with `num_nodes`, `batch` `[num_nodes]` without edges between two graphs, the lists `SPLIT_PAIRS` of pairs
            `[2, k]`, and masks `MASKS` of nodes, edges or graphs, `EDGE_MASKS` of edges.

    Raises:
        InvalidTypeError: no `torch_geometric.data.Data`.
        InvalidInputError: anything else; the message names the attribute, the rule and the value.
    """
    if not isinstance(data, Data):
        raise InvalidTypeError(
            f"Expected 'data' to be a torch_geometric Data (got {type(data).__name__}){graph_instead(data)}"
        )
    data = _plain(data)
    edge_index = data.get("edge_index")
    _check_edge_index(data, edge_index)
    size, columns = int(data.num_nodes or 0), edge_index.size(1)
    _check_features(data.get("x"), size)
    if columns and (int(edge_index.min()) < 0 or int(edge_index.max()) >= size):
        outside = edge_index[(edge_index < 0) | (edge_index >= size)]
        raise InvalidInputError(f"Expected node ids of data.edge_index in [0, {size - 1}] (got {int(outside[0])})")
    for name in ALONG_EDGES:
        _check_along_edges(name, data.get(name), columns)
    if columns:
        relation_tensor(data, columns)
    for name in SPLIT_PAIRS:
        if data.get(name) is not None:
            check_node_ids(pair_tensor(data, name), size, f"data.{name}")
    _check_nodes(data, edge_index, size)
    _check_masks(data, size, columns)
    _warn_of_lengths(data, size, columns)
    devices = {name: data[name].device for name in ("edge_index", "x", *ALONG_EDGES) if _is_tensor(data.get(name))}
    if len(set(devices.values())) > 1:
        said = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise InvalidInputError(f"Expected the tensors of 'data' on one device (got {said}); call data.to(device)")
    return data


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _plain(data: Data) -> Data:
    """Return the data with plain tensors for `EdgeIndex` and `Index`, whose caches belong to the unfiltered edges."""
    special = {key: value.as_tensor() for key, value in data if _is_tensor(value) and hasattr(value, "as_tensor")}
    if not special:
        return data
    size, data = data.num_nodes, copy.copy(data)
    for key, value in special.items():
        data[key] = value
    if data.num_nodes != size:  # an EdgeIndex knows the number of nodes
        data.num_nodes = size
    return data


def _check_edge_index(data: Data, edge_index: Any) -> None:
    if edge_index is None and any(data.get(name) is not None for name in ("adj_t", "adj")):
        raise InvalidInputError(
            "Expected data.edge_index to be a tensor [2, num_edges] (got 'adj_t' in its place); set "
            "data.edge_index, weight = torch_geometric.utils.to_edge_index(data.adj_t.t()), data.edge_weight = weight "
            "where the edges had weights, and delete data.adj_t"
        )
    if edge_index is None and data.get("train_pos_edge_index") is not None:
        raise InvalidInputError(
            "Expected data.edge_index to be a tensor [2, num_edges] (got None beside 'train_pos_edge_index'); set it "
            "to the edges that messages pass along, to_undirected(data.train_pos_edge_index)"
        )
    if not _is_tensor(edge_index):
        got = type(edge_index).__name__
        raise InvalidInputError(f"Expected data.edge_index to be a tensor [2, num_edges] (got {got})")
    if edge_index.layout != torch.strided:
        raise InvalidInputError(f"Expected data.edge_index of shape [2, num_edges] (got layout {edge_index.layout})")
    if edge_index.dtype != torch.long:
        raise InvalidInputError(
            f"Expected data.edge_index of dtype torch.int64 (got {edge_index.dtype}); call data.edge_index.long()"
        )
    if edge_index.dim() != 2 or edge_index.size(0) != 2:
        turned = "; call data.edge_index.t()" if edge_index.dim() == 2 and edge_index.size(1) == 2 else ""
        raise InvalidInputError(
            f"Expected data.edge_index of shape [2, num_edges] (got {list(edge_index.shape)}){turned}"
        )


def _check_features(x: Any, size: int) -> None:
    if x is None:
        return
    if not _is_tensor(x):
        raise InvalidInputError(f"Expected data.x to be a tensor [num_nodes, num_features] (got {type(x).__name__})")
    if x.layout not in (torch.strided, torch.sparse_csr):
        raise InvalidInputError(f"Expected dense or CSR features data.x (got {x.layout}); pass x.to_sparse_csr()")
    if x.layout == torch.sparse_csr and x.dim() != 2:
        raise InvalidInputError(f"Expected CSR features data.x [num_nodes, num_features] (got {tuple(x.shape)})")
    if x.dim() == 0 or x.size(0) != size:  # set by hand: PyG takes the number of nodes from x otherwise
        rows = x.size(0) if x.dim() else "none"
        raise InvalidInputError(f"Expected data.num_nodes to be the rows of data.x, {rows} (got {size})")
    if x.is_floating_point():
        _check_finite("x", x.values() if x.layout == torch.sparse_csr else x, x.layout == torch.strided)


def _check_finite(name: str, value: Tensor, where: bool = True) -> None:
    if bool(torch.isfinite(value.sum())):  # a single pass, without a mask as large as the features
        return
    finite = torch.isfinite(value)
    if not bool(finite.all()):
        place = (~finite).nonzero()[0].tolist()
        at = f" at {place}" if where else ""
        raise InvalidInputError(f"Expected data.{name} to be finite (got {value[tuple(place)].item()}{at})")


def _check_along_edges(name: str, value: Any, columns: int) -> None:
    if value is None:
        return
    if not _is_tensor(value) or value.layout != torch.strided or value.dim() == 0 or value.size(0) != columns:
        got = list(value.shape) if _is_tensor(value) else type(value).__name__
        half = "; it seems to count each undirected edge once: to_undirected(edge_index, values) repeats them"
        is_half = _is_tensor(value) and value.dim() > 0 and 2 * value.size(0) == columns
        raise InvalidInputError(
            f"Expected data.{name} with an entry for each of {columns} columns of edge_index (got {got})"
            f"{half if is_half else ''}"
        )
    if value.is_floating_point():
        _check_finite(name, value)


def _check_masks(data: Data, size: int, columns: int) -> None:
    """Refuse masks of a split that fit neither nodes nor edges nor a list of pairs nor the graphs of a batch."""
    others = {data[name].size(1): f"pairs of {name}" for name in SPLIT_PAIRS if data.get(name) is not None}
    if _is_tensor(data.get("batch")) and size:
        others[num_graphs(data)] = "graphs"
    for name in MASKS:
        value = data.get(name)
        length = len(value) if getattr(value, "shape", ()) or isinstance(value, (list, tuple)) else None
        fits = {columns: "columns of edge_index", **others, size: "nodes"}
        if length is not None and length not in fits:
            said = " or ".join(f"{number} {what}" for number, what in reversed(fits.items()))
            hint = "; set data.num_nodes if there are nodes without edges" if length > size and data.x is None else ""
            raise InvalidInputError(f"Expected data.{name} with an entry for each of {said} (got {length}){hint}")
    for name in EDGE_MASKS:
        value = data.get(name)
        if _is_tensor(value) and value.dtype == torch.bool and value.dim() and len(value) not in (columns, *others):
            raise InvalidInputError(
                f"Expected data.{name} with an entry for each of {columns} columns of edge_index (got {len(value)})"
            )


def _warn_of_lengths(data: Data, size: int, columns: int) -> None:
    """Warn of labels and of tensors named after edges that have another length: they do not change with the graph."""
    y = data.get("y")
    if _is_tensor(y) and y.dim() and data.get("batch") is None and y.size(0) not in (1, size, columns):
        warnings.warn(f"data.y has {y.size(0)} entries for {size} nodes", stacklevel=4)
    for name, value in data:
        if not name.startswith("edge_") or name in ALONG_EDGES or any(word in name for word in _LISTS_OF_THEIR_OWN):
            continue
        other = _is_tensor(value) and value.dim() > 0 and value.size(0) != columns
        if other and not is_list(name, value, size, columns):
            warnings.warn(
                f"data.{name} has {value.size(0)} entries for {columns} columns of edge_index, so that it stays as it "
                "is when edges go; give it one entry per column, or a name that does not start with 'edge_'",
                stacklevel=4,
            )


def _check_nodes(data: Data, edge_index: Tensor, size: int) -> None:
    """Check what says where a node is: types, graphs of a batch, and which nodes are forgotten."""
    gone, batch, kind = data.get(GONE), data.get("batch"), data.get("node_type")
    if _is_tensor(kind) and (kind.shape != (size,) or kind.is_floating_point() or kind.dtype == torch.bool):
        raise InvalidInputError(
            f"Expected data.node_type with an integer for each of {size} nodes (got {list(kind.shape)} of {kind.dtype})"
        )
    if kind is not None and not _is_tensor(kind) and len(kind) != size:
        raise InvalidInputError(f"Expected data.node_type with a name for each of {size} nodes (got {len(kind)})")
    if gone is not None:
        if not _is_tensor(gone) or gone.dtype != torch.bool or gone.shape != (size,):
            raise InvalidInputError(f"Expected data.{GONE} to be boolean of shape [{size}] (got {gone!r:.80})")
        number = int(gone[edge_index].any(dim=0).sum())
        if number:
            raise InvalidInputError(
                f"Expected no edges of forgotten nodes (got {number} columns of edge_index with an end in data.{GONE})"
            )
    if _is_tensor(batch):
        if batch.dtype != torch.long or batch.shape != (size,) or (size and int(batch.min()) < 0):
            raise InvalidInputError(
                f"Expected data.batch with the number of each node's graph, integers of shape [{size}] (got "
                f"{list(batch.shape)} of {batch.dtype})"
            )
        across = int((batch[edge_index[0]] != batch[edge_index[1]]).sum())
        if across:
            raise InvalidInputError(f"Expected edges inside the graphs of a batch (got {across} between two graphs)")
