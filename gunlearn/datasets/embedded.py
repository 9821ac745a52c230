"""Small graphs of scikit-learn and networkx, which need no files and no network."""

from __future__ import annotations

import networkx as nx
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import kneighbors_graph
from torch_geometric.data import Data

from gunlearn.datasets.own import build, from_networkx

DIGITS_NEIGHBOURS = 5


def digits() -> Data:
    """Return the nearest-neighbour graph of scikit-learn's 1797 handwritten digits, 8 x 8 pixels.

    Each image has an undirected edge to the `DIGITS_NEIGHBOURS` images nearest in Euclidean distance of the pixels. `x`
    `[1797, 64]` is scaled to `[0, 1]`, `y` is the digit.
    """
    bunch = load_digits()
    pixels = bunch.data / 16.0  # 16 grey levels above 0
    neighbours = kneighbors_graph(pixels, DIGITS_NEIGHBOURS, mode="connectivity", include_self=False).tocoo()
    edge_index = torch.from_numpy(np.stack([neighbours.row, neighbours.col]).astype(np.int64))
    return build(
        edge_index, torch.from_numpy(pixels.astype(np.float32)), torch.from_numpy(bunch.target.astype(np.int64))
    )


def karate() -> Data:
    """Return Zachary's karate club: 34 members, one-hot features, `y` the club each joined (0 Mr. Hi, 1 Officer).

    The edge weights (numbers of shared activities) are left out.
    """
    graph = nx.karate_club_graph()
    return from_networkx(graph, labels=[int(club == "Officer") for _, club in graph.nodes(data="club")])


def lesmis() -> Data:
    """Return the characters of Les Miserables that share a scene: 77 nodes, one-hot features, no labels.

    The edge weights (numbers of shared scenes) are left out.
    """
    return from_networkx(nx.les_miserables_graph())
