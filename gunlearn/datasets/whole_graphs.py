"""A data set of many graphs that needs no files, for tasks on whole graphs."""

import networkx as nx
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.utils import degree, to_undirected

GRAPHS_PER_CLASS = 60
MAX_DEGREE = 9  # of the one-hot features; larger degrees share the last one


def shapes() -> Batch:
    """Return 180 random graphs of 12 to 23 nodes as one batch: trees, rings with chords, and overlapping cliques.

    `x` `[num_nodes, 10]` is the degree, one-hot; `y` `[180]` the kind: 0 a tree of preferential attachment, 1 a small
    world (Watts and Strogatz), 2 a chain of cliques that share a node. The same graphs in every process.
    """
    graphs = []
    for seed in range(3 * GRAPHS_PER_CLASS):
        size, kind = 12 + seed % 12, seed % 3
        if kind == 0:
            graph = nx.barabasi_albert_graph(size, 1, seed=seed)
        elif kind == 1:
            graph = nx.connected_watts_strogatz_graph(size, 4, 0.2, seed=seed)
        else:
            graph = nx.Graph(pair for k in range(0, size - 3, 3) for pair in nx.complete_graph(range(k, k + 4)).edges)
        graph = nx.convert_node_labels_to_integers(graph)
        edges = to_undirected(torch.tensor(list(graph.edges)).t(), num_nodes=len(graph))
        count = degree(edges[0], len(graph)).long().clamp(max=MAX_DEGREE)
        x = torch.nn.functional.one_hot(count, MAX_DEGREE + 1).float()
        graphs.append(Data(x=x, edge_index=edges, y=torch.tensor([kind])))
    return Batch.from_data_list(graphs)
