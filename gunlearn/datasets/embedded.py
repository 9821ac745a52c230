"""Small graphs of scikit-learn and networkx, which need no files."""

import networkx as nx
from sklearn.datasets import load_digits
from sklearn.neighbors import kneighbors_graph
from torch_geometric.data import Data
from torch_geometric.utils import from_scipy_sparse_matrix

from gunlearn.datasets.networkx_graphs import from_networkx
from gunlearn.datasets.own import as_features, as_labels, build

DIGITS_NEIGHBOURS = 5


def digits() -> Data:
    """Return the nearest-neighbour graph of scikit-learn's 1797 handwritten digits, 8 x 8 pixels.

    Each image has an undirected edge to the `DIGITS_NEIGHBOURS` images nearest in Euclidean distance of the pixels. `x`
    `[1797, 64]` is scaled to `[0, 1]`, `y` is the digit.
    """
    bunch = load_digits()
    pixels = bunch.data / 16.0  # 16 grey levels above 0
    neighbours = kneighbors_graph(pixels, DIGITS_NEIGHBOURS, mode="connectivity", include_self=False)
    return build(from_scipy_sparse_matrix(neighbours)[0], as_features(pixels), as_labels(bunch.target, len(pixels)))


def karate() -> Data:
    """Return Zachary's karate club: 34 members, one-hot features, no weights, `y` the club (0 Mr. Hi, 1 Officer)."""
    graph = nx.karate_club_graph()
    return from_networkx(_bare(graph), labels=[int(club == "Officer") for _, club in graph.nodes(data="club")])


def lesmis() -> Data:
    """Return the characters of Les Miserables that share a scene: 77 nodes, one-hot features, no labels, no weights.

    Their names are in `node_id`.
    """
    return from_networkx(_bare(nx.les_miserables_graph()))


def _bare(graph: nx.Graph) -> nx.Graph:
    """Return a graph without its attributes."""
    bare = nx.Graph()
    bare.add_nodes_from(graph)
    bare.add_edges_from(graph.edges)
    return bare
