"""Features of a pair of nodes against networkx, with the edge between the two taken out."""

import networkx as nx
import numpy as np
import torch
from torch_geometric.data import Data
from torch_geometric.utils import from_networkx

from gunlearn.tasks.graph.pair_features import NAMES, pair_features


def problem(seed: int = 0) -> tuple[nx.Graph, Data]:
    graph = nx.gnp_random_graph(25, 0.2, seed=seed)
    graph.add_node(25)  # isolated
    data = from_networkx(graph)
    data.num_nodes = 26
    data.x = torch.rand(26, 7, generator=torch.Generator().manual_seed(seed))
    return graph, data


def slow(graph: nx.Graph, data: Data, u: int, v: int) -> list[float]:
    degree = dict(graph.degree)
    graph = graph.copy()
    if graph.has_edge(u, v):
        graph.remove_edge(u, v)
    common = list(nx.common_neighbors(graph, u, v))
    x = data.x.double().numpy()

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))

    around = [x[n] + sum((x[m] for m in graph[n]), np.zeros(7)) for n in (u, v)]
    low, high = sorted((graph.degree[u], graph.degree[v]))
    adamic_adar = sum(1 / np.log(max(degree[w], 2)) for w in common)
    return [np.log1p(low), np.log1p(high), np.log1p(len(common)), adamic_adar, cosine(x[u], x[v]), cosine(*around)]


def test_equals_networkx_pair_by_pair() -> None:
    graph, data = problem()
    pairs = torch.tensor([[0, 1, 2, 3, 25, 4, 10], [5, 9, 3, 25, 7, 20, 11]])
    linked = torch.tensor(sorted(graph.edges)[:12]).t()
    pairs = torch.cat([pairs, linked, linked.flip(0)], dim=1)
    got = pair_features(data, pairs)
    want = np.array([slow(graph, data, u, v) for u, v in pairs.t().tolist()])
    assert got.shape == (pairs.size(1), len(NAMES))
    np.testing.assert_allclose(got, want, atol=1e-9)
