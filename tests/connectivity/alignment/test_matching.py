"""Assignments against brute force; matchings, factors and similarities against their definitions."""

from itertools import permutations

import pytest
import torch
from torch import nn

from gunlearn.connectivity.alignment import align_models, best_order
from gunlearn.connectivity.alignment.feature_matching import covariance
from gunlearn.errors import DivergenceError
from tests.connectivity.alignment.pairs import answer, kinds, permuted_copy


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


@pytest.mark.parametrize(("by", "place"), [("messages", 1), ("activations", 2)])
def test_matching_of_one_layer_brings_its_values_as_near_as_any_permutation(by: str, place: int) -> None:
    data = torch.randn(50, 4).double()
    for seed in range(3):
        first, second = layers(2 * seed), layers(2 * seed + 1)
        one, other = (model[:place](data) for model in (first, second))
        one, other = one - one.mean(0), other - other.mean(0)
        best = min(permutations(range(5)), key=lambda p: float((one - other[:, list(p)]).square().sum()))
        found = align_models(first, second, by, inputs=data)
        assert found.permutations["0"].tolist() == list(best)


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
