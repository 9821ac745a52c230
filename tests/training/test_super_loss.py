"""SuperLoss: weights that solve their equation, a running mean per run, any loss underneath."""

import math
from pathlib import Path

import pytest
import torch
from scipy.optimize import minimize_scalar

import gunlearn as gu
from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.losses import NLL, NPO, Prediction
from gunlearn.training.super_loss import SuperLoss, super_loss_weights, with_curriculum
from tests.connectivity.cases import items, perceptron
from tests.training.callbacks import Kill


@pytest.mark.parametrize("value", [-1.0, 0.2, 1.0, 3.0, 40.0])
def test_weights_are_the_confidence_that_minimises_the_loss(value: float) -> None:
    # SuperLoss is the minimum over sigma of (l - tau) sigma + lambda log^2 sigma; where l - tau is very negative there
    # is none, and the weight stays at e.
    tau, strength = 0.7, 2.0
    found = float(super_loss_weights(torch.tensor([value], dtype=torch.float64), tau, strength))
    best = minimize_scalar(
        lambda s: (value - tau) * math.exp(s) + strength * s * s, bounds=(-8, 1), method="bounded",
        options={"xatol": 1e-10},
    )  # fmt: skip
    assert found == pytest.approx(math.exp(best.x), rel=1e-4)
    other = float(super_loss_weights(torch.tensor([value + 0.5], dtype=torch.float64), tau, strength))
    assert other < found or value < tau - 2 * strength / math.e  # harder items weigh less


def test_the_floor_is_the_branch_point() -> None:
    values = torch.tensor([-100.0, 1.0 - 20 / math.e], dtype=torch.float64)
    assert super_loss_weights(values, 1.0, 10.0).tolist() == pytest.approx([math.e, math.e], rel=1e-6)


def test_the_threshold_is_the_mean_so_far_and_weights_take_no_gradient() -> None:
    loss, p = SuperLoss(NLL(), strength=1.0), torch.tensor([-0.5, -2.5], requires_grad=True)
    total = loss({"retain": Prediction(log_prob=p)})
    weights = super_loss_weights(torch.tensor([0.5, 2.5]), 1.5, 1.0)
    assert total.item() == pytest.approx(float((weights * torch.tensor([0.5, 2.5])).mean()))
    total.backward()
    assert torch.allclose(p.grad, -weights / 2)
    loss({"retain": Prediction(log_prob=torch.tensor([-9.0, -9.0], requires_grad=True))})
    assert loss.seen.value == pytest.approx((0.5 + 2.5 + 18) / 4)
    with torch.no_grad():  # an evaluation leaves the mean alone
        loss({"retain": Prediction(log_prob=torch.tensor([-99.0, -99.0]))})
    assert loss.seen.count == 4


def test_masked_items_and_tokens() -> None:
    log_prob = torch.tensor([[-1.0, -3.0], [-4.0, -100.0]], requires_grad=True)
    mask = torch.tensor([[True, True], [True, False]])
    each = SuperLoss(NLL(reduction="none"), strength=2.0)({"retain": Prediction(log_prob=log_prob, mask=mask)})
    weights = super_loss_weights(torch.tensor([2.0, 4.0]), 3.0, 2.0)  # means over tokens; their mean is 3
    assert torch.allclose(each, weights[:, None] * torch.tensor([[1.0, 3.0], [4.0, 0.0]]))


def test_any_method_can_learn_by_it() -> None:
    data, request = items(), gu.ForgetItems(count=6)
    base = gu.train(perceptron(), data, gu.ImageClassification(), epochs=30, lr=0.05).model
    plain = NPO(beta=5) + NLL(on="retain")
    weighed = with_curriculum(plain, strength=0.5)
    ends = {
        name: gu.unlearn(base, data, request, objective, gu.ImageClassification(), epochs=10, lr=0.05).model
        for name, objective in {"plain": plain, "weighed": weighed, "again": weighed}.items()
    }
    states = {name: torch.cat([p.flatten() for p in model.parameters()]) for name, model in ends.items()}
    assert torch.equal(states["weighed"], states["again"])  # the mean of one run does not enter the next
    assert not torch.allclose(states["plain"], states["weighed"], atol=1e-4)


def test_a_resumed_run_has_its_mean(tmp_path: Path) -> None:
    data, request = items(), gu.ForgetItems(count=6)
    objective = with_curriculum(NLL(on="retain"), strength=0.5)

    def run(**more: object) -> torch.Tensor:
        options = {"epochs": 60, "lr": 0.05, "seed": 3, **more}
        model = gu.unlearn(perceptron(), data, request, objective, gu.ImageClassification(), **options).model
        return torch.cat([p.flatten() for p in model.parameters()])

    whole = run()
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint_dir=tmp_path, callbacks=[Kill(55)])
    assert torch.equal(run(checkpoint_dir=tmp_path), whole)


def test_what_cannot_be_weighed_is_refused() -> None:
    with pytest.raises(InvalidTypeError, match="Expected a Loss to weigh"):
        SuperLoss("nll")
    with pytest.raises(InvalidInputError, match="strength"):
        SuperLoss(NLL(), strength=0)
    for wrong in ({"on": "forget"}, {"reduction": "sum"}):
        with pytest.raises(InvalidInputError, match="that of the loss"):
            SuperLoss(NLL(on="retain"), **wrong)
    assert "super_npo(forget)" in with_curriculum(NPO()).labels


def test_a_curriculum_is_over_a_plain_loss() -> None:
    with pytest.raises(InvalidInputError, match="without a curriculum"):
        SuperLoss(SuperLoss(NLL()))
