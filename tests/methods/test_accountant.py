"""The accountant: its formula against the exact Gaussian tail, its checks one by one, and the budget that runs out."""

import copy
import math
from statistics import NormalDist
from typing import Any

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.nn import SGConv

import gunlearn as gu
from gunlearn.errors import InvalidInputError
from gunlearn.methods import fit_linear_head
from gunlearn.methods.linear_head.accountant import Accountant
from gunlearn.nn import LinearHead
from tests.methods.heads import fitted, gradient, karate, optimum

REQUEST = gu.ForgetNodes([3], seed=1)


def unlearn(model: torch.nn.Module, data: Data, request: gu.Request = REQUEST, method: str = "cgu", **more: Any):
    result = gu.unlearn(model, data, request, method, "node_classification", **more)
    return result, result.notes["certificate"]


def exact(shift: float, epsilon: float) -> float:
    """Smallest delta of a Gaussian mechanism of unit noise (arXiv 1805.06530, theorem 8)."""
    cdf = NormalDist().cdf
    return cdf(shift / 2 - epsilon / shift) - math.exp(epsilon) * cdf(-shift / 2 - epsilon / shift)


@pytest.mark.parametrize("epsilon", [0.01, 0.3, 1.0])
@pytest.mark.parametrize("delta", [1e-8, 1e-4, 0.05])
def test_a_shift_of_the_whole_budget_keeps_epsilon_and_delta(epsilon: float, delta: float) -> None:
    shift = Accountant(epsilon, delta).budget(1.0)
    assert exact(shift, epsilon) <= delta
    assert exact(100 * shift, epsilon) > delta  # control
    assert Accountant(epsilon, delta).budget(3.0) == pytest.approx(3 * shift)


def test_the_formula_is_refused_where_it_is_false() -> None:
    assert exact(10 / math.sqrt(2 * math.log(1.5 / 1e-4)), 10) > 1e-4
    for wrong in ({"epsilon": 10.0}, {"epsilon": 0.0}, {"delta": 0.0}, {"delta": 1.0}, {"epsilon": math.nan}):
        with pytest.raises(InvalidInputError, match="epsilon"):
            Accountant(**wrong)
        with pytest.raises(InvalidInputError, match="epsilon"):
            unlearn(LinearHead(12, 2), karate(), **wrong)


@pytest.mark.parametrize("method", ["cgu", "scalegun"])
def test_budget_not_hard_coded(method: str) -> None:
    data = karate()
    for alpha in (1.0, 2.0):
        head = fitted(data, alpha=alpha)
        for epsilon, delta in ((1.0, 1e-4), (0.5, 1e-4), (1.0, 1e-2)):
            certificate = unlearn(head, data, method=method, epsilon=epsilon, delta=delta)[1]
            assert (certificate["epsilon"], certificate["delta"]) == (epsilon, delta)
            assert certificate["budget"] == pytest.approx(alpha * epsilon / math.sqrt(2 * math.log(1.5 / delta)))


@pytest.mark.parametrize("method", ["cgu", "scalegun", "cgu:paper", "scalegun:paper"])
def test_the_certificate_can_trigger_a_retrain(method: str) -> None:
    data, statuses, spent = karate(), [], [0.0]
    head = first = fitted(data, alpha=0.06)
    for last in data.train_mask.nonzero().view(-1)[:12].tolist():
        result, certificate = unlearn(head, data, gu.ForgetNodes([last]), method)
        statuses.append(certificate["status"])
        assert certificate["spent"] <= certificate["budget"]
        if statuses[-1] == "retrained":
            break
        assert certificate["spent"] > spent[-1]  # bounds add up, on the head that goes on
        assert torch.equal(result.model.perturbation, first.perturbation)
        spent.append(certificate["spent"])
        head, data = result.model, result.data
    assert (statuses[0], statuses[-1]) == ("certified", "retrained")
    # A new perturbation, of the same size, and the exact optimum with it; the count starts anew.
    ratio = float(result.model.perturbation.norm() / first.perturbation.norm())
    assert 0.5 < ratio < 2
    assert not torch.allclose(result.model.perturbation, first.perturbation, atol=0.01)
    assert torch.allclose(result.model.lin.weight, optimum(result.model, result.data), atol=1e-6)
    assert certificate["spent"] < 1e-3 * spent[-1]
    assert "trained anew" in certificate["reason"]
    # Control: with more noise the same request would not have needed it.
    assert unlearn(fitted(data, alpha=10.0), data, gu.ForgetNodes([last]), method)[1]["status"] == "certified"


def test_a_retrained_perturbation_is_never_the_first_ones() -> None:
    data = karate()
    # Whatever seed the run has, the one of the first training included.
    drawn = [fitted(data, alpha=1e-3).perturbation]
    for seed in (0, 1):
        result, certificate = unlearn(fitted(data, alpha=1e-3), data, seed=seed)
        assert certificate["status"] == "retrained"
        drawn.append(result.model.perturbation)
    result, _ = unlearn(drawn_head := result.model, result.data, gu.ForgetNodes([5]), seed=1)
    drawn.append(result.model.perturbation)
    assert float(drawn_head.alpha) == 1e-3
    for i, one in enumerate(drawn):
        assert all(not torch.allclose(one, other, atol=1e-5) for other in drawn[:i])


@pytest.mark.parametrize("method", ["cgu", "scalegun"])
@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("alpha", 0.0, "without perturbation"),
        ("lam", 0.0, "not strictly convex"),
        ("lam", 1.1, "not at the optimum"),
        ("perturbation", 0.0, "no draw of"),
        ("perturbation", 3.0, "no draw of"),
        ("lin.weight", 1.001, "not at the optimum"),
    ],
)
def test_says_uncertified_where_an_assumption_fails(method: str, name: str, value: float, reason: str) -> None:
    data = karate()
    head = fitted(data, alpha=10.0)
    assert unlearn(head, data, method=method)[1]["status"] == "certified"  # control
    broken = copy.deepcopy(head)
    broken.state_dict()[name].mul_(value)
    certificate = unlearn(broken, data, method=method)[1]
    assert certificate["status"] == "uncertified"
    assert reason in certificate["reason"]


@pytest.mark.parametrize("method", ["cgu", "scalegun"])
def test_says_uncertified_of_models_trained_in_another_way(method: str) -> None:
    data = karate()
    torch.manual_seed(0)
    by_adam = {"task": "node_classification", "epochs": 20, "lr": 1e-2}
    for trained, reason in (
        (gu.train(SGConv(12, 2, K=2), data, **by_adam).model, "no record"),
        (gu.train(LinearHead(12, 2), data, **by_adam).model, "lambda is 0"),
        (fitted(data, alpha=0.0), "without perturbation"),
    ):
        result, certificate = unlearn(trained, data, method=method)
        assert certificate["status"] == "uncertified"
        assert reason in certificate["reason"]
        assert not torch.equal(result.model.lin.weight, trained.lin.weight)  # the step is taken all the same
    # Fine-tuned after, or asked about other data than it was trained on.
    head = fitted(data, alpha=10.0)
    tuned = gu.unlearn(head, data, REQUEST, "finetune", "node_classification", epochs=1).model
    other = gu.ForgetNodes([0]).resolve(data).retain_data
    for model, graph in ((tuned, data), (head, other)):
        certificate = unlearn(model, graph, method=method)[1]
        assert certificate["status"] == "uncertified"
        assert "not at the optimum" in certificate["reason"]


def test_an_sgconv_can_be_fitted_for_a_certificate() -> None:
    data = karate()
    layer = SGConv(12, 2, K=2, bias=False)
    before = layer.lin.weight.clone()
    head = fit_linear_head(layer, data, alpha=10.0, lam=1.0)
    assert torch.equal(layer.lin.weight, before)
    layer.lin.weight.data.copy_(head.lin.weight)
    assert torch.allclose(layer(data.x, data.edge_index), head(data.x, data.edge_index), atol=1e-6)
    assert unlearn(head, data)[1]["status"] == "certified"


def test_the_state_travels_with_the_model(tmp_path: Any) -> None:
    data = karate()
    result, first = unlearn(fitted(data, alpha=10.0), data)
    loaded = gu.Result.load(result.save(tmp_path), LinearHead(12, 2).double()).model
    one, two = (unlearn(m, result.data, gu.ForgetNodes([8]))[1] for m in (result.model, loaded))
    assert one == two
    assert one["spent"] > first["spent"]
    fresh = unlearn(fitted(result.data, alpha=10.0), result.data, gu.ForgetNodes([8]))[1]
    assert fresh["spent"] < one["spent"] * 0.99  # control: a head without a past
    assert loaded.perturbation.norm() > 0
    assert gradient(loaded, result.data).norm() <= first["spent"]
