"""Power-law graphs of any size: Chung-Lu, its end points drawn by the inverse of their distribution."""

import numpy as np
import torch
from torch_geometric.data import Data

MEAN_DEGREE, EXPONENT, CHUNK = 20, 2.5, 1 << 22


def power_law_graph(num_edges: int, num_features: int = 128, seed: int = 0, mean_degree: float = MEAN_DEGREE) -> Data:
    """`num_edges` distinct undirected edges in both directions, sorted; one node per ten edges; normal features.

    Another `mean_degree` makes other numbers of nodes.

    Node `i` is drawn with probability proportional to `(i + shift)^(-1 / (exponent - 1))`; the shift bounds the largest
    expected degree by the square root of the sum of degrees, so that expected numbers of edges between two nodes stay
    below one. Ids are shuffled: hubs that lie side by side would flatter the caches. One array of the edges' keys is
    held beside the result.
    """
    rng = np.random.default_rng(seed)
    room = int((8 * num_edges) ** 0.5) + 1  # in tiny graphs
    num_nodes = max(int(2 * num_edges / mean_degree), room)
    power = 1 - 1 / (EXPONENT - 1)
    shift = (mean_degree**0.5 * num_nodes ** (1 / 2 - power) * power) ** (1 / (1 - power))
    low, high = shift**power, (num_nodes + shift) ** power
    label = rng.permutation(num_nodes)

    def ends(size: int) -> np.ndarray:
        drawn = ((low + rng.random(size) * (high - low)) ** (1 / power) - shift).astype(np.int64)
        return label[drawn.clip(0, num_nodes - 1)]

    key = np.empty(0, dtype=np.int64)
    while key.size < num_edges:
        fresh = []
        missing = int(1.1 * (num_edges - key.size)) + 16
        for start in range(0, missing, CHUNK):
            u, v = ends(min(CHUNK, missing - start)), ends(min(CHUNK, missing - start))
            fresh.append(np.minimum(u, v)[u != v] * num_nodes + np.maximum(u, v)[u != v])
        key = np.unique(np.concatenate([key, *fresh]))
    if key.size > num_edges:  # not the last ones: keys are sorted, so those would be the edges of high ids
        keep = np.ones(key.size, dtype=bool)
        keep[rng.choice(key.size, key.size - num_edges, replace=False)] = False
        key = key[keep]
    both = np.concatenate([key, key % num_nodes * num_nodes + key // num_nodes])
    del key
    both.sort()
    edge_index = torch.from_numpy(np.stack([both // num_nodes, both % num_nodes]))
    del both
    x = torch.randn(num_nodes, num_features, generator=torch.Generator().manual_seed(seed))
    return Data(x=x, edge_index=edge_index, num_nodes=num_nodes)
