"""What callers and their models do to an estimate: gradient modes, targets that write, multigraphs, skips."""

import pytest
import torch
from torch import Tensor, nn
from torch_geometric import EdgeIndex
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv, SAGEConv

import gunlearn as gu
from gunlearn.attribution import estimate
from gunlearn.errors import InvalidInputError
from tests.attribution.cases import karate, some_items, trained
from tests.attribution.removal import SIZE, Residual, Stack

pytestmark = pytest.mark.filterwarnings("ignore:the model does not look trained")


@pytest.fixture(scope="module")
def problem() -> tuple[nn.Module, Data]:
    return trained("gcn"), karate()


class Silent(Residual):
    """Adds its hidden layer where shapes allow it: silently another function where rows are missing."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h = self.first(x, edge_index).relu()
        out = self.second(h, edge_index)
        return out if out.shape != h.shape else out + h


@pytest.mark.parametrize("skip", [Residual, Silent])
@pytest.mark.parametrize("conv", [GCNConv, SAGEConv])
@pytest.mark.parametrize("of", ["edges", "nodes"])
def test_skip_connections_where_probes_change_whole_components(conv: type, of: str, skip: type) -> None:
    """Ten pairs, a path and a clique: in a pair every row changes in every layer, so that sizes happen to agree."""
    pairs = [(2 * i, 2 * i + 1) for i in range(10)]
    path = [(20 + i, 21 + i) for i in range(4)]
    clique = [(i, j) for i in range(25, 31) for j in range(i + 1, 31)]
    edge_index = torch.tensor(pairs + path + clique).t()
    data = Data(torch.randn(31, SIZE, dtype=torch.float64), torch.cat([edge_index, edge_index.flip(0)], dim=1))
    model = skip(conv).double()
    found = gu.influence(model, data, of=of, estimator="exact")
    torch.testing.assert_close(found, gu.influence(model, data, of=of, estimator="brute"), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "target", [lambda y: (y.mul_(2), y.sum())[1], lambda y: (y > 0.1).sum(), lambda y: y.float().square().sum()]
)
def test_targets_that_write_or_return_another_type(problem: tuple, target: object) -> None:
    model, data = problem
    exact, brute = (gu.influence(model, data, estimator=e, target=target) for e in ("exact", "brute"))
    torch.testing.assert_close(exact, brute, rtol=1e-5, atol=1e-8)


def test_undirected_is_a_matter_of_pairs_not_of_copies(problem: tuple) -> None:
    model, data = problem
    more = data.clone()
    more.edge_index = torch.cat([data.edge_index, data.edge_index[:, :1]], dim=1)
    result = estimate(model, more, estimator="exact")
    assert result.num_items == data.num_edges // 2
    partner = (more.edge_index == more.edge_index[:, :1].flip(0)).all(dim=0)
    assert torch.equal(result.scores[partner], result.scores[:1])
    torch.testing.assert_close(result.scores, gu.influence(model, more, estimator="brute"), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("of", ["edges", "nodes"])
@pytest.mark.parametrize("estimator", ["exact", "local", "edge_edit"])
def test_edge_index_objects(problem: tuple, estimator: str, of: str) -> None:
    model, data = problem
    wrapped = data.clone()
    wrapped.edge_index = EdgeIndex(data.edge_index, sparse_size=(data.num_nodes, data.num_nodes))
    given = {"of": of, "estimator": estimator, "items": some_items(data, of)}
    given["target"] = "loss" if estimator == "edge_edit" else "probabilities"
    torch.testing.assert_close(gu.influence(model, wrapped, **given), gu.influence(model, data, **given))
    assert isinstance(wrapped.edge_index, EdgeIndex)


def test_one_column_has_no_probabilities(problem: tuple) -> None:
    _, data = problem
    model = gu.GCN(data.num_features, 8, 1).double()
    for estimator in ("exact", "calibrated", "degree"):
        with pytest.raises(InvalidInputError, match="at least two columns"):
            gu.influence(model, data, estimator=estimator)


def test_calibrated_says_nothing_where_nothing_changes(problem: tuple) -> None:
    model, data = problem
    still = gu.GCN(data.num_features, 8, 4).double()
    for parameter in still.parameters():
        nn.init.zeros_(parameter)
    assert bool((gu.influence(still, data, estimator="calibrated", sample=20, base="degree") == 0).all())
    moving = estimate(model, data, estimator="calibrated", sample=20)
    assert bool((moving.scores > 0).all())
    assert moving.notes["factor_90"] > 1


def test_calibrated_corrects_its_base_and_knows_its_error() -> None:
    """Degrees rank removals; exact scores of a sample give them their size, within the factor that the notes name."""
    generator = torch.Generator().manual_seed(0)
    edge_index = torch.randint(0, 300, (2, 700), generator=generator)
    edge_index = torch.cat([edge_index, edge_index.flip(0)], dim=1).unique(dim=1)
    x = torch.randn(300, 8, generator=generator, dtype=torch.float64)
    data = Data(x, edge_index, num_nodes=300)
    torch.manual_seed(0)
    model = gu.GCN(8, 16, 8).double()
    truth = gu.influence(model, data, estimator="exact").log()
    degree = gu.influence(model, data, estimator="degree").log()
    result = estimate(model, data, estimator="calibrated", base="degree", sample=100)
    error = (result.scores.log() - truth).abs()
    assert error.mean() < 0.5 * (degree - truth).abs().mean()  # the control: uncorrected
    share = (error <= torch.tensor(result.notes["factor_90"]).log()).double().mean()
    assert 0.8 < share <= 1


def test_local_leaves_alone_what_does_not_lose_an_edge(problem: tuple) -> None:
    """A self-loop that a GCN adds anyway: nothing changes when it goes."""
    model, data = problem
    loops = torch.tensor([[0, 5], [0, 5]])
    more = data.clone()
    more.edge_index = torch.cat([data.edge_index, loops], dim=1)
    assert gu.influence(model, more, estimator="local", items=loops).max() < 1e-9


@pytest.mark.parametrize("aggr", ["mean", "sum"])
def test_a_row_that_nothing_is_left_of_is_zero_before_it_is_normalised(aggr: str) -> None:
    """In float32 a rounding error would be blown up to length 1."""

    class Normalised(Stack):
        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return nn.functional.normalize(super().forward(x, edge_index))

    torch.manual_seed(0)  # weights by which rounding errors arise
    model = Normalised(*(SAGEConv(*size, aggr=aggr, root_weight=False, bias=False) for size in ((34, 8), (8, 4))))
    exact, brute = (
        gu.influence(model, gu.load("karate"), estimator=e, target="embeddings") for e in ("exact", "brute")
    )
    torch.testing.assert_close(exact, brute, rtol=1e-3, atol=1e-4)
