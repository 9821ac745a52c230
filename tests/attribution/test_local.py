"""The cheap estimate: exact where its two assumptions hold, close on a real graph, refused elsewhere."""

import pytest
import torch
import torch_geometric.nn as pyg
from scipy.stats import spearmanr
from torch import nn
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.attribution import Embeddings
from gunlearn.attribution.removal import local
from gunlearn.attribution.targets import Distance
from gunlearn.errors import UnsupportedMethodError
from tests.attribution.removal import HIDDEN, OUT, SIZE, Residual, Skips, Stack, built, off, randomised, tangled


def tree(extra: tuple[int, int] | None = None) -> Data:
    """A random tree with a node apart; with an extra edge, a triangle."""
    g = torch.Generator().manual_seed(0)
    parent = torch.tensor([int(torch.randint(max(i - 4, 0), i, (1,), generator=g)) for i in range(1, 15)])
    edges = torch.stack([parent, torch.arange(1, 15)])
    if extra is not None:
        edges = torch.cat([edges, torch.tensor(extra).view(2, 1)], dim=1)
    x = torch.randn(16, SIZE, generator=g, dtype=torch.float64)
    return Data(x=x, edge_index=torch.cat([edges, edges.flip(0)], dim=1), num_nodes=16)


# In a tree no row is reached from two touched nodes. What a touched node sends depends, in one layer, on its own degree
# and input alone; in two layers of SAGE its hidden row changes, and no one else's, for no degree scales what is sent.
# So each neighbour's row moves by one weighted difference, whose length is known.
EXACT = {
    "gcn": lambda: Stack(pyg.GCNConv(SIZE, OUT)),
    "gcn without loops": lambda: Stack(pyg.GCNConv(SIZE, OUT, add_self_loops=False)),
    "sage": lambda: Stack(pyg.SAGEConv(SIZE, OUT)),
    "sage sum": lambda: Stack(pyg.SAGEConv(SIZE, OUT, aggr="sum")),
    "two sage sum": lambda: Stack(pyg.SAGEConv(SIZE, HIDDEN, aggr="sum"), pyg.SAGEConv(HIDDEN, OUT, aggr="sum")),
    "two sage": lambda: Stack(pyg.SAGEConv(SIZE, HIDDEN), pyg.SAGEConv(HIDDEN, OUT)),
}


def by(estimator, model, data, **given):
    return gu.influence(model, data, estimator=estimator, **{"target": "embeddings"} | given)


@pytest.mark.parametrize("of", ["edges", "nodes"])
@pytest.mark.parametrize("name", EXACT)
def test_exact_on_a_tree(name, of):
    model, data = randomised(EXACT[name]()), tree()
    assert off(by("local", model, data, of=of), by("brute", model, data, of=of)) < 1e-9


def test_a_triangle_and_a_second_gcn_layer_are_where_it_ends():
    """The control of the test above: it is an estimate, and the comparison can tell."""
    data = tree()
    hub = data.edge_index[0].bincount().argmax()
    other = data.edge_index[1, data.edge_index[0] == hub]
    triangle = tree((int(other[0]), int(other[1])))
    sums = randomised(EXACT["two sage sum"]())
    assert off(by("local", sums, triangle), by("brute", sums, triangle)) > 1e-4
    two = randomised(Stack(pyg.GCNConv(SIZE, HIDDEN), pyg.GCNConv(HIDDEN, OUT)))
    assert off(by("local", two, data), by("brute", two, data)) > 1e-4
    one = randomised(EXACT["gcn"]())
    assert off(by("local", one, data, target="probabilities"), by("brute", one, data, target="probabilities")) > 1e-6


def test_sizes_of_changes_that_meet_add_up():
    """So in a linear layer the estimate is never below the truth."""
    model, data = randomised(EXACT["gcn"]()), tree((3, 14))
    found, truth = by("local", model, data, of="nodes"), by("brute", model, data, of="nodes")
    assert (found >= truth - 1e-12).all()


def without_shares(patch):
    patch.setattr(local._Around, "distance", lambda self, weight, delta: delta.new_zeros(delta.size(0)))


def test_each_share_is_needed(monkeypatch):
    model, data = randomised(EXACT["gcn"]()), tree()
    truth = by("brute", model, data)
    without_shares(monkeypatch)
    assert off(by("local", model, data), truth) > 1e-3


@pytest.fixture(scope="module")
def cora(data_root):
    """A link predictor of Cora, 1000 of its edges, and their exact influence."""
    data = gu.link_split(gu.load("Cora", data_root, sparse=True), seed=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = gu.GCN(data.num_features, 32, 16)
    model = gu.train(model, data, epochs=60, lr=1e-2, eval_every=60).model.eval()
    chosen = torch.randperm(data.num_edges, generator=torch.Generator().manual_seed(0))[:1000]
    items = data.edge_index[:, chosen]
    return model, data, items, gu.influence(model, data, items=items)


def test_close_on_cora(cora, monkeypatch):
    model, data, items, truth = cora

    def rank(scores):
        return spearmanr(scores, truth).statistic

    found = gu.influence(model, data, items=items, estimator="local")
    assert rank(found) > 0.85
    shuffled = found[torch.randperm(found.numel(), generator=torch.Generator().manual_seed(1))]
    assert abs(rank(shuffled)) < 0.15
    assert rank(gu.influence(model, data, items=items, estimator="degree")) < rank(found) - 0.1
    without_shares(monkeypatch)
    assert rank(gu.influence(model, data, items=items, estimator="local")) < rank(found) - 0.02


def test_the_third_share_brings_it_nearer(cora):
    model, data, items, truth = cora

    def error(**options):
        found = gu.attribution.estimate(model, data, items=items, estimator="local", **options)
        return float(((found.scores - truth).abs() / truth.clamp(min=1e-6)).mean()), found.notes["shares"]

    (more, shares), (less, fewer) = error(), error(neighbors=False)
    assert more < less
    assert set(shares) - set(fewer) == {"beyond"}


@pytest.mark.parametrize("target", ["probabilities", "embeddings"])
def test_nodes_follow_the_truth(cora, target):
    model, data = cora[:2]
    items = torch.randperm(1400, generator=torch.Generator().manual_seed(2))[:120]
    found = by("local", model, data, of="nodes", items=items, target=target)
    truth = by("exact", model, data, of="nodes", items=items, target=target)
    assert torch.isfinite(found).all()
    assert (found >= 0).all()
    assert spearmanr(found, truth).statistic > 0.8


class Headed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = pyg.GCNConv(SIZE, HIDDEN), nn.Linear(HIDDEN, OUT)

    def forward(self, x, edge_index):
        return self.head(self.conv(x, edge_index).relu())


REFUSED = {
    "gat": lambda: Stack(pyg.GCNConv(SIZE, HIDDEN), pyg.GATConv(HIDDEN, OUT)),
    "gin": lambda: Stack(pyg.GINConv(nn.Linear(SIZE, OUT))),
    "sage normalised": lambda: Stack(pyg.SAGEConv(SIZE, OUT, normalize=True)),
    "no rule": lambda: Stack(pyg.ChebConv(SIZE, HIDDEN, 2), pyg.GCNConv(HIDDEN, OUT)),
    "head": Headed,
    "skip": lambda: Residual(pyg.GCNConv, lambda h: h),
    "skips": Skips,
    "graph norm": lambda: pyg.GCN(SIZE, HIDDEN, 2, OUT, norm="GraphNorm"),
}


@pytest.mark.parametrize("of", ["edges", "nodes"])
@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_remedy(name, of):
    with pytest.raises(UnsupportedMethodError, match="use 'exact'"):
        by("local", randomised(REFUSED[name]()), tangled(), of=of)


class Other(Distance):
    name = "other"
    distance = Embeddings.distance


def test_refused_targets():
    with pytest.raises(UnsupportedMethodError, match="local"):
        by("local", built("gcn"), tangled(), target=Other())


def test_a_log_softmax_at_the_end_makes_no_difference_to_probabilities():
    class Log(Stack):
        def forward(self, x, edge_index):
            return super().forward(x, edge_index).log_softmax(dim=-1)

    plain = randomised(Stack(pyg.GCNConv(SIZE, HIDDEN), pyg.GCNConv(HIDDEN, OUT)))
    log, data = Log(*plain.convs), tangled()
    wanted = by("local", plain, data, target="probabilities")
    torch.testing.assert_close(by("local", log, data, target="probabilities"), wanted)
    with pytest.raises(UnsupportedMethodError, match="use 'exact'"):
        by("local", log, data)
