"""Graph and feature similarity of two nodes: covariates for matching edges with edges."""

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch_geometric.data import Data

NAMES = ("log_min_degree", "log_max_degree", "log_common_neighbors", "adamic_adar", "cosine", "smoothed_cosine")


def pair_features(data: Data, edge_index: Tensor) -> np.ndarray:
    """Return degrees, common neighbours and feature similarity of node pairs, `[num_pairs, 6]` in the order of `NAMES`.

    The pair's own edge, where there is one, does not count: an edge and a non-edge with the same surroundings look the
    same. `data.edge_index` is read as undirected; `edge_index` are the pairs, `[2, num_pairs]`.
    """
    num_nodes = data.num_nodes
    row, col = data.edge_index.cpu().numpy()
    u, v = edge_index.cpu().numpy()
    adjacency = sp.csr_matrix((np.ones(row.size), (row, col)), shape=(num_nodes, num_nodes))
    adjacency = ((adjacency + adjacency.T) > 0).astype(np.float64)
    adjacency = adjacency - sp.diags(adjacency.diagonal())
    linked = np.asarray(adjacency[u, v]).ravel()
    degree = np.asarray(adjacency.sum(axis=1)).ravel()
    du, dv = degree[u] - linked, degree[v] - linked

    common = np.asarray(adjacency[u].multiply(adjacency[v]).sum(axis=1)).ravel()
    rare = sp.diags(1 / np.log(np.maximum(degree, 2)))
    adamic_adar = np.asarray((adjacency[u] @ rare).multiply(adjacency[v]).sum(axis=1)).ravel()

    x = _sparse(data)
    own_u, own_v = x[u], x[v]
    around_u = own_u + adjacency[u] @ x - sp.diags(linked) @ own_v
    around_v = own_v + adjacency[v] @ x - sp.diags(linked) @ own_u
    return np.stack(
        [
            np.log1p(np.minimum(du, dv)),
            np.log1p(np.maximum(du, dv)),
            np.log1p(common),
            adamic_adar,
            _cosine(own_u, own_v),
            _cosine(around_u, around_v),
        ],
        axis=1,
    )


def _sparse(data: Data) -> sp.csr_matrix:
    """Return features as a sparse matrix, never a second dense copy; one-hot where there are none."""
    if data.x is None:
        return sp.identity(data.num_nodes, format="csr")
    x = data.x.detach().cpu()
    if x.layout == torch.sparse_csr:
        parts = (x.values().double().numpy(), x.col_indices().numpy(), x.crow_indices().numpy())
        return sp.csr_matrix(parts, shape=tuple(x.shape))
    row, col = x.nonzero(as_tuple=True)
    return sp.csr_matrix((x[row, col].double().numpy(), (row.numpy(), col.numpy())), shape=tuple(x.shape))


def _cosine(a: sp.spmatrix, b: sp.spmatrix) -> np.ndarray:
    dot, aa, bb = (np.asarray(p.multiply(q).sum(axis=1)).ravel() for p, q in ((a, b), (a, a), (b, b)))
    return dot / np.sqrt(np.maximum(aa * bb, np.finfo(float).tiny))
