"""Find edges by the ids of their end points, in any kind of adjacency that a layer takes."""

from typing import Any

import torch
from torch import Tensor
from torch_geometric import EdgeIndex

from gunlearn.errors import InvalidInputError, UnsupportedModelError
from gunlearn.nn.kernels.memo import Store, memo
from gunlearn.nn.kernels.sparse import row_of_entries

MAX_NODES = 2**31  # two ids share one int64 key


class EdgeLookup:
    """Finds edges by their ids `(u, v)`, in a graph of any order and size.

    `edge_index` names edges `[2, num_named]`, int64 ids in `[0, 2**31)`; duplicates count once.

    Attributes:
        keys: sorted keys of the named pairs `[num_pairs]`.
        pair: for each column of `edge_index`, its row in `keys` `[num_named]`.
        count: copies of each pair `[num_pairs]`.
    """

    def __init__(self, edge_index: Tensor) -> None:
        self.keys, self.pair, self.count = torch.unique(self.key(edge_index), return_inverse=True, return_counts=True)
        self._store = Store()

    @staticmethod
    def key(edge_index: Tensor) -> Tensor:
        """Return one int64 per edge, `u * 2**32 + v`, whatever the number of nodes."""
        return edge_index[0].long() * 2**32 + edge_index[1].long()

    def find(self, edge_index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the row in `keys` of each edge, and whether it is named, both `[num_edges]`; remembered per tensor."""
        if torch.compiler.is_compiling():
            return self._find(edge_index)
        return memo(edge_index, "find", lambda: self._find(edge_index), self._store)

    def _find(self, edge_index: Tensor) -> tuple[Tensor, Tensor]:
        keys = self.keys.to(edge_index.device)
        key = self.key(edge_index)
        if keys.numel() == 0:
            return torch.zeros_like(key), torch.zeros_like(key, dtype=torch.bool)
        row = torch.searchsorted(keys, key).clamp(max=keys.numel() - 1)
        return row, keys[row] == key

    def per_pair(self, value: Tensor) -> Tensor:
        """Return each pair's value `[num_pairs]`, that of one of its copies among `[num_named]`."""
        return value.new_empty(self.keys.numel()).index_copy(0, self.pair.to(value.device), value)

    def require_all(self, row: Tensor, found: Tensor, layer: str) -> None:
        """Raise `InvalidInputError` if the layer's graph lacks a named pair."""
        held = torch.zeros(self.keys.numel(), dtype=torch.bool, device=row.device)
        held[row[found]] = True
        if not bool(held.all()):
            missing = self.keys.to(row.device)[~held]
            pairs = [(k // 2**32, k % 2**32) for k in missing[:5].tolist()]
            raise InvalidInputError(
                f"Expected every named edge in the graph of layer '{layer}' because strict=True "
                f"(got {missing.numel()} that it does not hold, the first of them {pairs})"
            )


def edge_pairs(adjacency: Any, layer: str) -> Tensor:
    """Return the columns `(u, v)` of a layer's graph, in the order of its per-edge arguments, as a plain tensor.

    The graph is `[2, num_edges]`, an `EdgeIndex`, or PyG's `adj_t` as torch CSR or COO (row = target); others raise
    `UnsupportedModelError`.
    """
    if isinstance(adjacency, EdgeIndex):
        return adjacency.as_tensor()
    if isinstance(adjacency, Tensor) and adjacency.layout == torch.strided:
        if adjacency.dim() == 2 and adjacency.size(0) == 2 and not adjacency.is_floating_point():
            return adjacency
        raise UnsupportedModelError(
            f"Expected 'edge_index' of layer '{layer}' as integers of shape [2, num_edges] "
            f"(got {adjacency.dtype} of shape {list(adjacency.shape)})"
        )
    if isinstance(adjacency, Tensor) and adjacency.layout == torch.sparse_csr:
        return torch.stack([adjacency.col_indices(), row_of_entries(adjacency.crow_indices())])
    if isinstance(adjacency, Tensor) and adjacency.layout == torch.sparse_coo:
        return adjacency._indices().flip(0)
    kind = adjacency.layout if isinstance(adjacency, Tensor) else type(adjacency).__name__
    raise UnsupportedModelError(
        f"Expected the graph of layer '{layer}' as edge_index [2, num_edges], EdgeIndex, or torch sparse CSR or COO; "
        f"convert it with torch_geometric.utils.to_edge_index (got {kind})"
    )


def adjacency_values(adjacency: Tensor) -> Tensor:
    """Return the stored values of a sparse adjacency, `[num_edges]`."""
    return adjacency._values() if adjacency.layout == torch.sparse_coo else adjacency.values()


def keep_edges(adjacency: Tensor, pairs: Tensor, kept: Tensor) -> Tensor:
    """Return the adjacency of the edges `kept` `[num_kept]` alone; sparse stays sparse, `EdgeIndex` becomes plain."""
    pairs = pairs.index_select(1, kept)
    if adjacency.layout == torch.strided:
        return pairs
    source, target = pairs
    value = adjacency_values(adjacency).index_select(0, kept)
    if adjacency.layout == torch.sparse_csr:
        degree = torch.bincount(target, minlength=adjacency.size(0))
        ptr = torch.cat([degree.new_zeros(1), degree.cumsum(0)])
        return torch.sparse_csr_tensor(ptr, source, value, adjacency.shape)
    index = torch.stack([target, source])
    return torch.sparse_coo_tensor(index, value, adjacency.shape, is_coalesced=adjacency.is_coalesced())


def describe_tensor(value: Any) -> str:
    """Return a tensor's dtype and shape, or anything else's type, for error messages."""
    return f"{value.dtype} of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def check_edge_index(name: str, edge_index: Any, num_nodes: int | None) -> Tensor:
    """Return checked edge ids as a plain int64 tensor `[2, num_edges]`, without a copy where possible.

    Another shape or dtype, or ids outside `[0, num_nodes)`, raise `InvalidInputError`.
    """
    if isinstance(edge_index, EdgeIndex):
        edge_index = edge_index.as_tensor()
    integers = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    if (
        not isinstance(edge_index, Tensor)
        or edge_index.layout != torch.strided
        or edge_index.dtype not in integers
        or edge_index.dim() != 2
        or edge_index.size(0) != 2
    ):
        raise InvalidInputError(
            f"Expected '{name}' as integers of shape [2, num_edges] (got {describe_tensor(edge_index)})"
        )
    edge_index = edge_index.long()
    limit = MAX_NODES if num_nodes is None else num_nodes
    if edge_index.numel() and (edge_index.min() < 0 or edge_index.max() >= limit):
        raise InvalidInputError(
            f"Expected node ids in [0, {limit}) in '{name}' "
            f"(got ids from {int(edge_index.min())} to {int(edge_index.max())})"
        )
    return edge_index


def check_scale(lookup: EdgeLookup, scale: Any) -> None:
    """Raise unless there is one factor >= 0 per named edge, the same for copies of an edge."""
    num_edges = lookup.pair.numel()
    if not isinstance(scale, Tensor) or not scale.is_floating_point() or scale.shape != (num_edges,):
        raise InvalidInputError(
            f"Expected 'scale' as floating point of shape [{num_edges}], one per edge (got {describe_tensor(scale)})"
        )
    value = scale.detach()
    bad = ~torch.isfinite(value) | (value < 0)
    if bad.any():
        raise InvalidInputError(f"Expected 'scale' to be finite and >= 0 (got {float(value[bad][0])})")
    one = lookup.per_pair(value)[lookup.pair.to(value.device)]
    if not torch.allclose(one, value, rtol=1e-6, atol=0.0):
        raise InvalidInputError(
            "Expected one scale for all copies of an edge, which share their ids "
            f"(got copies that differ by {float((one - value).abs().max())})"
        )
