"""SophiaG against its formula in plain numbers."""

import math

import pytest
import torch
from torch import nn

from gunlearn.errors import InvalidInputError
from gunlearn.losses import ObjectiveValue
from gunlearn.training.loop import TrainArguments, fit
from gunlearn.training.optimizers import find_optimizer
from gunlearn.training.sophia import SophiaG

SETTINGS = {"betas": (0.9, 0.95), "rho": 0.04, "batch_size": 200.0, "weight_decay": 0.1}


class Bowl(nn.Module):
    """The sum of `a x^2 / 2`, whose gradient is `a x`."""

    a = torch.tensor([4.0, 0.01], dtype=torch.float64)

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))

    def step(self) -> ObjectiveValue:
        loss = 0.5 * (self.a * self.x.square()).sum()
        return ObjectiveValue(loss, {"bowl": loss.detach()})


def by_hand(steps: int, lr: float, momentum_updates: int = 1) -> list[float]:
    """The formula, number by number; `momentum_updates` of 2 is what the authors' code does."""
    found = []
    for a, x in zip((4.0, 0.01), (1.0, -2.0), strict=True):
        m = h = 0.0
        for _ in range(steps):
            g = a * x
            h = 0.95 * h + 0.05 * g * g
            for _ in range(momentum_updates):
                m = 0.9 * m + 0.1 * g
            x = (1 - lr * 0.1) * x - lr * math.copysign(min(abs(m) / (0.04 * 200 * h + 1e-15), 1), m)
        found.append(x)
    return found


@pytest.mark.parametrize("steps", [1, 7])
def test_steps_are_those_of_the_formula(steps: int) -> None:
    model = Bowl()
    fit(model, model.step, TrainArguments(steps, 0.05), optimizer="sophia_g", optimizer_options=SETTINGS)
    assert model.x.tolist() == pytest.approx(by_hand(steps, 0.05), rel=1e-12)
    if steps > 1:  # control: two updates of the momentum per step end elsewhere
        assert model.x.tolist() != pytest.approx(by_hand(steps, 0.05, 2), rel=1e-3)


def test_it_is_found_and_restored() -> None:
    assert find_optimizer("Sophia-G") is SophiaG
    straight, resumed = Bowl(), Bowl()
    optimizers = [SophiaG([model.x], 0.05, **SETTINGS) for model in (straight, resumed)]
    for k in range(6):
        if k == 3:
            again = SophiaG([resumed.x], 0.05, **SETTINGS)
            again.load_state_dict(optimizers[1].state_dict())
            optimizers[1] = again
        for model, optimizer in zip((straight, resumed), optimizers, strict=True):
            optimizer.zero_grad()
            model.step().total.backward()
            optimizer.step()
    assert torch.equal(straight.x, resumed.x)


@pytest.mark.parametrize("bad", [{"rho": 0}, {"betas": (1.0, 0.9)}, {"lr": -1.0}, {"batch_size": 0}])
def test_numbers_out_of_range_are_refused(bad: dict) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(bad))):
        SophiaG([nn.Parameter(torch.zeros(1))], **bad)


@pytest.mark.parametrize("betas", [0.9, "ab", (0.9,), (0.9, None), {"a": 1, "b": 2}])
def test_betas_are_two_numbers(betas: object) -> None:
    with pytest.raises(InvalidInputError, match="two 'betas'"):
        SophiaG([torch.nn.Parameter(torch.zeros(1))], betas=betas)
