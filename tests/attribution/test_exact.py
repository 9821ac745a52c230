"""`exact` gives `brute`'s numbers from the changed rows alone, for every layer it has a rule for."""

from contextlib import nullcontext

import pytest
import torch
import torch_geometric.nn as pyg

import gunlearn as gu
from gunlearn.attribution import Exact
from gunlearn.errors import InvalidInputError
from tests.attribution.removal import (
    GRAPHS,
    HIDDEN,
    MODELS,
    NODES,
    OUT,
    SIZE,
    Stack,
    both,
    built,
    directed,
    held_out,
    off,
    perceptron,
    randomised,
    tangled,
    weighted,
)

CLOSE = 1e-9
ENTRIES = torch.stack([torch.arange(NODES), torch.arange(NODES) % SIZE])


def reads_weights(name):
    """Models that get the weights of `weighted()`; the others are as on any undirected graph."""
    return "gcn" in name or name in ("mixed", "mixed back", "pyg.GCN", "gunlearn.GCN")


ALL = ("gcn", "gcn without loops", "sage", "gin", "gat heads", "gatv2 residual", "skips", "mixed")
CASES = [  # these models with everything, all models with edges of one graph and nodes of another
    (model, graph, of)
    for model in MODELS
    for graph in GRAPHS
    for of in ("edges", "nodes", "features")
    if (graph != "weighted" or reads_weights(model))
    and (model in ALL or (graph, of) in (("tangled", "edges"), ("directed", "nodes"), ("weighted", "edges")))
]


@pytest.mark.parametrize(("model", "graph", "of"), CASES)
def test_same_numbers_as_brute(model, graph, of):
    error, path = both(built(model), GRAPHS[graph](), of=of, target="embeddings")
    assert path == "changed rows"
    assert error < CLOSE


@pytest.mark.parametrize("model", ALL)
def test_single_entries(model):
    error, path = both(built(model), tangled(), of="features", items=ENTRIES, target="embeddings")
    assert path == "changed rows"
    assert error < CLOSE


def squares(z):
    return z[:10].square().sum() - z[3, 0] * z[12, 1]


@pytest.mark.parametrize("of", ["edges", "nodes", "features"])
@pytest.mark.parametrize(
    ("model", "target", "task"),
    [
        ("gcn", "probabilities", "link_prediction"),
        ("gcn", "loss", "link_prediction"),
        ("gcn", "loss", "node_classification"),
        ("gcn", squares, "link_prediction"),
        ("gat heads", "loss", "link_prediction"),
        ("skips", "loss", "node_classification"),
        ("skips", squares, "link_prediction"),
    ],
)
def test_every_target(model, target, task, of):
    error, path = both(built(model), held_out(directed()), task, of=of, target=target)
    assert path == "changed rows"
    assert error < CLOSE


@pytest.mark.parametrize(
    ("model", "of"), [("gcn", "edges"), ("gcn", "features"), ("gatv2 residual", "edges"), ("skips", "nodes")]
)
def test_small_batches_give_the_same(model, of):
    """Items of one batch must not see each other."""
    data = tangled()
    wanted = gu.influence(built(model), data, of=of)
    for rows in (1, 64):
        assert off(gu.influence(built(model), data, of=of, rows=rows), wanted) < 1e-12


@pytest.mark.parametrize("rows", [0, -5, "a", True])
def test_rows_per_batch_are_checked(rows):
    with pytest.raises(InvalidInputError, match="'rows'"):
        Exact(rows=rows)


@pytest.mark.parametrize("kwargs", [{}, {"add_self_loops": False}, {"normalize": False}, {"improved": True}])
def test_copies_of_a_weighted_loop(kwargs):
    """Several loops of one node, with weights: what the layer makes of them, the scores follow."""
    data = weighted()
    index = torch.cat([data.edge_index, torch.tensor([[3, 3, 17], [3, 3, 17]])], dim=1)
    weight = torch.cat([data.edge_weight, torch.tensor([0.3, 0.1, 0.7], dtype=torch.float64)])
    data.edge_index, data.edge_weight = index, weight
    model = randomised(Stack(pyg.GCNConv(SIZE, HIDDEN, **kwargs), pyg.GCNConv(HIDDEN, OUT, **kwargs)))
    with pytest.warns(gu.attribution.SlowEstimatorWarning) if kwargs in ({}, {"improved": True}) else nullcontext():
        for of in ("edges", "nodes"):
            assert both(model, data, of=of, target=squares)[0] < CLOSE


def test_a_graph_of_one_edge_and_items_without_effect():
    graph = tangled()
    graph.edge_index = torch.tensor([[0], [1]])
    for name in ("gcn", "sage", "gin", "gat heads", "skips"):
        assert both(built(name), graph, target="embeddings")[0] < CLOSE
        alone = gu.influence(built(name), graph, of="nodes", items=[7])  # no edges
        assert alone.tolist() == [0.0]


CONVS = {
    "gcn": pyg.GCNConv,
    "sage": pyg.SAGEConv,
    "gin": lambda a, b: pyg.GINConv(perceptron(a, b)),
    "gat": pyg.GATConv,
}
REAL = [("Cora", False, conv) for conv in CONVS] + [
    ("Cora", True, "sage"),
    ("CiteSeer", True, "gat"),
    ("Photo", False, "gcn"),
]


@pytest.mark.parametrize(("name", "sparse", "conv"), REAL)
def test_real_graphs(name, sparse, conv, data_root):
    """Sparse features are multiplied by a linear map of the layer."""
    data = gu.load(name, data_root, sparse=sparse)
    data.x = data.x.double() if name != "Photo" else data.x[:, :32].double()  # it has edges enough
    model = randomised(Stack(CONVS[conv](data.num_features, 16), CONVS[conv](16, 7)))
    g = torch.Generator().manual_seed(0)
    for of, count in (("edges", 8), ("nodes", 2)) if name == "Photo" else (("edges", 30), ("nodes", 6)):
        chosen = torch.randint(data.num_edges, (count,), generator=g)
        items = data.edge_index[:, chosen] if of == "edges" else data.edge_index[0, chosen]
        error, path = both(model, data, of=of, items=items)
        assert path == "changed rows"
        assert error < CLOSE
