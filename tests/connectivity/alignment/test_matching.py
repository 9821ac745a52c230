"""Assignments against brute force; matchings, factors and similarities against their definitions."""

import copy
from itertools import permutations

import pytest
import torch
from torch import nn
from torch_geometric import nn as pyg

from gunlearn.connectivity.alignment import align_models, best_order
from gunlearn.connectivity.alignment.aligned_model import traced
from gunlearn.connectivity.alignment.feature_matching import covariance
from gunlearn.connectivity.alignment.model_pair import frozen_copy, runner
from gunlearn.connectivity.alignment.symmetry import balancing_factors
from gunlearn.errors import DivergenceError, UnsupportedModelError
from tests.connectivity.alignment.pairs import answer, graph, kinds, permuted_copy


def worth(similarity: torch.Tensor, order: tuple[int, ...] | torch.Tensor) -> float:
    return float(sum(similarity[i, int(j)] for i, j in enumerate(order)))


@pytest.mark.parametrize("seed", range(5))
def test_the_assignment_is_the_best_of_all(seed: int) -> None:
    similarity = torch.randn(6, 6, generator=torch.Generator().manual_seed(seed))
    best = max(worth(similarity, order) for order in permutations(range(6)))
    assert worth(similarity, best_order(similarity)) == pytest.approx(best)
    assert worth(similarity, range(6)) < best - 1e-3  # control: the order at rest is worse


@pytest.mark.parametrize("seed", range(5))
def test_the_assignment_of_heads_is_the_best_of_those_that_keep_heads_whole(seed: int) -> None:
    similarity = torch.randn(6, 6, generator=torch.Generator().manual_seed(seed))
    whole = [
        order
        for order in permutations(range(6))
        if all(len({order[3 * h + k] // 3 for k in range(3)}) == 1 for h in range(2))
    ]
    assert len(whole) == 2 * 6 * 6
    found = best_order(similarity, heads=2)
    assert tuple(found.tolist()) in whole
    assert worth(similarity, found) == pytest.approx(max(worth(similarity, order) for order in whole))


def test_similarities_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DivergenceError, match=r"NaN or infinity"):
        best_order(torch.tensor([[1.0, float("nan")], [0.0, 1.0]]))


def layers(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def test_weight_matching_of_one_layer_is_the_nearest_of_all_permutations() -> None:
    for seed in range(3):
        first, second = layers(2 * seed), layers(2 * seed + 1)

        def apart(order: list[int], a: nn.Sequential = first, b: nn.Sequential = second) -> float:
            rows = sum(float((p - q[order]).square().sum()) for p, q in zip(a[0].parameters(), b[0].parameters()))  # noqa: B905
            return rows + float((a[2].weight - b[2].weight[:, order]).square().sum())

        found = align_models(first, second, "weights", inputs=torch.randn(8, 4).double())
        best = min(permutations(range(5)), key=lambda order: apart(list(order)))
        assert found.permutations["0"].tolist() == list(best)


@pytest.mark.parametrize("by", ["messages", "activations"])
def test_matching_of_one_layer_brings_its_values_as_near_as_any_permutation(by: str) -> None:
    """Steep layers, so that what they return and what the next ones read match in other orders (the control)."""
    data, differ = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).double(), 0
    for seed in range(4):
        first, second = layers(2 * seed), layers(2 * seed + 1)
        best = {}
        for how, place in (("messages", 1), ("activations", 2)):
            with torch.no_grad():
                one, other = (model[:place](data * 8) for model in (first, second))
            one, other = one - one.mean(0), other - other.mean(0)
            nearest = min(permutations(range(5)), key=lambda p: float((one - other[:, list(p)]).square().sum()))
            best[how] = list(nearest)
        differ += best["messages"] != best["activations"]
        found = align_models(first, second, by, inputs=data * 8)
        assert found.permutations["0"].tolist() == best[by]
    assert differ > 0


def test_covariance_is_numpys() -> None:
    one, other = torch.randn(30, 3).double(), torch.randn(30, 4).double()
    both = torch.cov(torch.cat([one, other], dim=1).t(), correction=0)
    torch.testing.assert_close(covariance(one, other), both[:3, 3:])


def test_factors_are_those_of_the_hidden_rescaling() -> None:
    kind = kinds()["mlp"]
    other = permuted_copy(kind, rescale=True)
    found = align_models(kind.model, other, **kind.given)
    moved = other[0].weight[found.permutations["0"]]
    torch.testing.assert_close(moved * found.factors["0"].float()[:, None], kind.model[0].weight, rtol=1e-4, atol=1e-6)


def test_channels_that_are_dead_on_the_data_are_matched_by_their_weights() -> None:
    kind = kinds()["mlp"]
    with torch.no_grad():
        kind.model[0].bias[:4] = -100.0  # never active: without weights any order of the four would do
    other = permuted_copy(kind, rescale=False)
    found = align_models(kind.model, other, "activations", **kind.given)
    for key, value in kind.model.state_dict().items():
        torch.testing.assert_close(found.model.state_dict()[key], value, rtol=1e-5, atol=1e-6)


def test_a_channel_without_weights_behind_it_keeps_its_factor() -> None:
    kind = kinds()["mlp"]
    with torch.no_grad():
        kind.model[2].weight[:, 3] = 0.0
    found = align_models(kind.model, permuted_copy(kind, rescale=True), **kind.given)
    assert all(bool(torch.isfinite(p).all()) for p in found.model.parameters())
    want = answer(kind.model, kind.given)
    torch.testing.assert_close(answer(found.model, kind.given), want, rtol=0, atol=2e-5 * float(want.abs().max()))


def test_a_channel_that_is_all_but_gone_keeps_its_factor() -> None:
    """Weights of 1e-15 are rounding: to balance them with the next layer's would need a factor of 1e7."""
    kind = kinds()["mlp"]
    with torch.no_grad():
        kind.model[0].weight[3] = kind.model[0].bias[3] = 1e-15
    structure = traced(frozen_copy(kind.model), runner(None, kind.given["inputs"], None))
    factors = balancing_factors(structure, kind.model.state_dict())
    assert float(factors[min(factors)][3]) == 1.0
    assert float((factors[min(factors)] - 1).abs().max()) > 0.01  # control: others are balanced


def test_statistics_of_batch_normalisation_are_no_weights() -> None:
    """Running means, large and without relation, would decide a matching that read them."""
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    second, order = copy.deepcopy(first), torch.randperm(6)
    with torch.no_grad():
        for tensor in (second[0].weight, second[0].bias):
            tensor.copy_(tensor[order])
        second[3].weight.copy_(second[3].weight[:, order])
        for model in (first, second):
            model[1].running_mean.copy_(100 * torch.randn(6))
            model[1].running_var.copy_(100 * torch.rand(6) + 1)
    found = align_models(first.eval(), second.eval(), "weights", inputs=torch.randn(10, 4), rescale=False)
    assert torch.equal(order[found.permutations["0"]], torch.arange(6))


class TwoWays(nn.Module):
    """A network whose layers meet or not, as one of its weights says."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        nn.init.constant_(self.c.bias, sign)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = self.a(x).relu()
        two = self.b(one).relu()
        return self.c(two + one if bool(self.c.bias[0] > 0) else two)


def test_two_models_that_run_in_two_ways_are_refused() -> None:
    x = torch.randn(6, 4)
    with pytest.raises(UnsupportedModelError, match="the same way through their layers"):
        align_models(TwoWays(1.0), TwoWays(-1.0), inputs=x)
    assert align_models(TwoWays(1.0), TwoWays(1.0), inputs=x).permutations  # control


def test_a_model_is_called_with_what_its_forward_names() -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = pyg.GCNConv(7, 6), pyg.GCNConv(6, 3)

        def forward(self, x, edge_index, edge_weight=None, batch=None):
            seen.append((edge_weight, batch))
            return self.last(self.first(x, edge_index, edge_weight).relu(), edge_index, edge_weight)

    seen: list = []
    data = graph()
    data.edge_weight = torch.rand(data.num_edges) + 0.1
    align_models(Weighted(), Weighted(), data=data)
    assert seen
    assert all(weight is data.edge_weight and batch is None for weight, batch in seen)


def test_channels_that_meet_the_data_s_own_are_left() -> None:
    """GCN2Conv adds its second argument: where these are features, their order is that of the data."""

    class Initial(nn.Module):
        def __init__(self, *before: nn.Module) -> None:
            super().__init__()
            self.before, self.conv, self.last = nn.Sequential(*before), pyg.GCN2Conv(7, alpha=0.3), nn.Linear(7, 3)

        def forward(self, x, edge_index):
            return self.last(self.conv(self.before(x).relu(), x, edge_index).relu())

    torch.manual_seed(0)
    with pytest.raises(UnsupportedModelError, match="they meet other values in 'conv'"):
        align_models(Initial(nn.Linear(7, 7)), Initial(nn.Linear(7, 7)), data=graph())
    pair = [Initial(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 7)) for _ in range(2)]
    notes = align_models(*pair, data=graph()).notes
    assert "before.0" in notes["aligned"]
    assert notes["left"]["before.2"] == "they meet other values in 'conv'"
