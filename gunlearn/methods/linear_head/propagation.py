"""Exact rows of `sum_l hops[l] S^l X`, computed on the part of the graph that they depend on."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch_geometric.data import Data

from gunlearn.errors import InvalidInputError
from gunlearn.nn.kernels.bag_of_words import sparse_features
from gunlearn.nn.kernels.memo import memo
from gunlearn.nn.kernels.sparse import SparseMatrix, sparse_matrix
from gunlearn.nn.kernels.subgraph import csr_rows, k_hop_subgraph
from gunlearn.nn.layers.linear_head import normalised, row_scale_of

BLOCK = 512  # feature columns that are dense at a time


def dense_rows(x: Tensor, nodes: Tensor, normalize: bool) -> Tensor:
    """Return rows of features in double precision, `[num_rows, num_features]`; `normalize` scales them to length 1."""
    rows = csr_rows(x, nodes) if x.layout == torch.sparse_csr else x[nodes]
    dense = rows.to_dense().double()
    return dense * row_scale_of(rows).unsqueeze(-1) if normalize else dense


def column_blocks(x: Tensor, normalize: bool, width: int = BLOCK) -> Iterator[tuple[slice, Tensor]]:
    """Yield blocks of `width` feature columns, all rows of each: double precision `[num_nodes, block]`."""
    scale, sparse = row_scale_of(x).unsqueeze(-1) if normalize else None, None
    if x.layout == torch.sparse_csr:
        sparse = sparse_features(x)
        if sparse is None:
            raise InvalidInputError(f"Expected sparse features of type float32 or float64 (got {x.dtype})")
    for start in range(0, x.size(1), width):
        columns = slice(start, min(start + width, x.size(1)))
        if sparse is not None:
            pick = torch.zeros(x.size(1), columns.stop - start, dtype=x.dtype, device=x.device)
            pick[columns] = torch.eye(columns.stop - start, dtype=x.dtype, device=x.device)
            block = (sparse @ pick).double()
        else:
            block = x[:, columns].double()
        yield columns, block if scale is None else block * scale


def adjacency(edge_index: Tensor, num_nodes: int) -> SparseMatrix:
    """Return `S` in double precision, `[num_nodes, num_nodes]`; computed once per graph."""

    def build() -> SparseMatrix:
        (source, target), norm = normalised(edge_index, num_nodes, torch.float64)
        return sparse_matrix(target, source, norm, (num_nodes, num_nodes))

    return memo(edge_index, ("adjacency", num_nodes), build)


@torch.no_grad()
def propagated(data: Data, nodes: Tensor, hops: Sequence[float], normalize: bool) -> Tensor:
    """Return the propagated features of some `nodes`, in double precision `[num_rows, num_features]`.

    `hops` are the weights of the powers of `S`; `normalize` scales rows of `data.x` (dense or CSR) to length 1 first.
    """
    x = data.x
    if not nodes.numel():
        return torch.zeros(0, x.size(1), dtype=torch.float64, device=x.device)
    part = k_hop_subgraph(data, nodes, len(hops) - 1, max_edges=data.edge_index.size(1) // 2)
    if part is not None:
        data, nodes, x = part.data, part.relabel(nodes), part.data.x
    matrix = adjacency(data.edge_index, int(data.num_nodes))
    out = torch.empty(nodes.numel(), x.size(1), dtype=torch.float64, device=x.device)
    for columns, h in column_blocks(x, normalize):
        total = hops[0] * h[nodes]
        for hop in hops[1:]:
            h = matrix @ h
            total = total + hop * h[nodes] if hop else total
        out[:, columns] = total
    return out
