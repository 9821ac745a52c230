"""Optimisers and schedulers: PyTorch's by name or a caller's own, against PyTorch's and updates by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gunlearn as gu
from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.losses import ObjectiveValue
from gunlearn.methods import FineTune
from gunlearn.training.loop import TrainArguments, fit
from gunlearn.training.optimizers import PhasedOptimizer, make_optimizer
from tests.methods.cases import make_data, run, same_weights, trained_model
from tests.training.callbacks import Kill, On

A = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
B = torch.tensor([1.0, -2.0], dtype=torch.float64)


class Quadratic(nn.Module):
    """x'Ax / 2 - b'x in float64; its gradient is Ax - b."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor([2.0, -1.0], dtype=torch.float64))

    def step(self) -> ObjectiveValue:
        loss = 0.5 * self.x @ A @ self.x - B @ self.x
        return ObjectiveValue(loss, {"quadratic": loss.detach()})


def noting(rates: list[list[float]]) -> On:
    """Note the rate of each group before each step."""
    return On(step_begin=lambda optimizer, **_: rates.append([group["lr"] for group in optimizer.param_groups]))


def end(optimizer: Any, steps: int = 5, lr: float = 0.1, weight_decay: float = 0.0, **more: Any) -> Tensor:
    model = Quadratic()
    fit(model, model.step, TrainArguments(steps, lr, weight_decay), optimizer=optimizer, **more)
    return model.x.detach()


def sgd(steps: int, lr: float, momentum: float, decay: float) -> Tensor:
    x, velocity = Quadratic().x.detach().clone(), torch.zeros(2, dtype=torch.float64)
    for _ in range(steps):
        velocity = momentum * velocity + A @ x - B + decay * x
        x = x - lr * velocity
    return x


def torchs(cls: type[torch.optim.Optimizer], **options: Any) -> Tensor:
    model = Quadratic()
    optimizer = cls([model.x], **options)
    for _ in range(5):
        optimizer.zero_grad()
        model.step().total.backward()
        optimizer.step()
    return model.x.detach()


@pytest.mark.parametrize("spelling", ["SGD", "sgd", "Sgd"])
def test_sgd_is_the_update_by_hand(spelling: str) -> None:
    got = end(spelling, weight_decay=0.2, optimizer_options={"momentum": 0.9})
    torch.testing.assert_close(got, sgd(5, 0.1, 0.9, 0.2), rtol=1e-12, atol=1e-14)
    for other in (sgd(5, 0.1, 0.0, 0.2), sgd(5, 0.1, 0.9, 0.0)):  # controls: momentum and penalty do something
        assert (got - other).abs().max() > 1e-2


@pytest.mark.parametrize("options", [{}, {"fused": False}, {"foreach": True}])
def test_others_are_torchs(options: dict[str, bool]) -> None:
    got, expected = end("adam_w", weight_decay=0.3, optimizer_options=options), {"lr": 0.1, "weight_decay": 0.3}
    torch.testing.assert_close(got, torchs(torch.optim.AdamW, **expected), rtol=1e-10, atol=1e-12)
    got = end("RMSprop", optimizer_options={"alpha": 0.9})
    torch.testing.assert_close(got, torchs(torch.optim.RMSprop, lr=0.1, alpha=0.9), rtol=1e-10, atol=1e-12)
    assert (got - torchs(torch.optim.RMSprop, lr=0.1)).abs().max() > 1e-3  # control: the option arrives


def test_the_callers_choice_of_a_kernel_is_kept() -> None:
    parameters = list(Quadratic().parameters())
    assert make_optimizer("adam", parameters, 0.1).defaults["fused"]
    assert make_optimizer("adam", parameters, 0.1, options={"fused": False}).defaults["fused"] is False


def test_lbfgs_finds_the_optimum() -> None:
    best = torch.linalg.solve(A, B)
    exact = {"line_search_fn": "strong_wolfe", "tolerance_grad": 1e-14, "tolerance_change": 1e-16}
    got = end("lbfgs", steps=2, lr=1.0, optimizer_options=exact)
    torch.testing.assert_close(got, best, rtol=1e-8, atol=1e-8)
    assert (end("sgd", steps=2) - best).abs().max() > 0.1  # control: not what any optimiser does in two steps


def test_optimizers_without_a_penalty() -> None:
    assert not torch.equal(end("rprop"), Quadratic().x)
    for name in ("rprop", "LBFGS"):
        with pytest.raises(InvalidInputError, match="weight_decay"):
            end(name, weight_decay=0.1)


def test_a_factory_is_given_the_parameters_alone() -> None:
    given = []

    def factory(parameters: Any) -> torch.optim.Optimizer:
        given.append(parameters)
        return torch.optim.SGD(parameters, lr=0.05, momentum=0.5)

    torch.testing.assert_close(end(factory, lr=7.0), sgd(5, 0.05, 0.5, 0.0), rtol=1e-12, atol=1e-14)
    assert [p.shape for p in given[0]] == [(2,)]


def test_groups_of_parameters_have_their_own_rates() -> None:
    model, start = trained_model("gcn"), trained_model("gcn")
    names = [name for name, _ in model.named_parameters()]

    def factory(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        first, *rest = parameters
        return torch.optim.SGD([{"params": [first], "lr": 0.0}, {"params": rest, "lr": 0.5}])

    rates: list[list[float]] = []
    done = run("finetune", model, make_data(), epochs=2, optimizer=factory, callbacks=[noting(rates)]).model
    assert rates == [[0.0, 0.5]] * 2
    moved = {name: not torch.equal(value, start.state_dict()[name]) for name, value in done.named_parameters()}
    assert moved == {name: name != names[0] for name in names}


@pytest.mark.parametrize(
    ("scheduler", "options", "expected"),
    [
        ("StepLR", {"step_size": 2, "gamma": 0.5}, [0.1, 0.1, 0.05, 0.05, 0.025]),
        ("exponential_lr", {"gamma": 0.9}, [0.1 * 0.9**t for t in range(5)]),
        ("LambdaLR", {"lr_lambda": lambda t: 1 / (1 + t)}, [0.1 / (1 + t) for t in range(5)]),
        (lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [3], 0.1), None, [0.1, 0.1, 0.1, 0.01, 0.01]),
    ],
)
def test_rates_of_schedulers(scheduler: Any, options: dict[str, Any] | None, expected: list[float]) -> None:
    rates: list[list[float]] = []
    got = end("sgd", callbacks=[noting(rates)], scheduler=scheduler, scheduler_options=options)
    assert [rate for (rate,) in rates] == pytest.approx(expected, rel=1e-12)
    x = Quadratic().x.detach()
    for rate in expected:
        x = x - rate * (A @ x - B)
    torch.testing.assert_close(got, x, rtol=1e-12, atol=1e-14)


def own(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters)


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (FineTune, {"optimizer": "sdg"}, "did you mean 'sgd'"),
        (FineTune, {"optimizer": 3}, "name of an optimizer of torch.optim, its class, or a function"),
        (FineTune, {"scheduler": "StepRL"}, "did you mean 'steplr'"),
        (FineTune, {"scheduler": "ReduceLROnPlateau"}, "number of the step alone"),
        (FineTune, {"optimizer": own, "optimizer_options": {"momentum": 0.9}}, "with a name alone"),
        (FineTune, {"optimizer": own, "weight_decay": 0.1}, "no 'weight_decay' beside an optimizer's own"),
        (FineTune, {"scheduler_options": {"gamma": 0.9}}, "with a name alone"),
        # What only torch knows is refused before the first step.
        (end, {"optimizer": "adam", "optimizer_options": {"momentum": 0.9}}, "arguments that Adam takes .*momentum"),
        (end, {"optimizer": "sgd", "optimizer_options": {"momentum": -1.0}}, "arguments that SGD takes .*momentum"),
        (
            end,
            {"optimizer": "adam", "scheduler": "StepLR", "scheduler_options": {"gama": 1}},
            "arguments that StepLR takes .*gama",
        ),
        (end, {"optimizer": lambda parameters: "sgd"}, "factory to return an optimizer"),
    ],
)
def test_refused(build: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises((InvalidInputError, InvalidTypeError), match=message):
        build(**options)


def test_a_resumed_run_keeps_momentum_and_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(**more: Any) -> gu.Result:
        options = {"optimizer_options": {"momentum": 0.9}, "scheduler_options": {"step_size": 2, "gamma": 0.5}}
        options |= {"epochs": 7, "lr": 0.1, "optimizer": "sgd", "scheduler": "StepLR", **more}
        return run("finetune", trained_model(), make_data(), **options)

    def resumed() -> gu.Result:
        with pytest.raises(KeyboardInterrupt):
            start(callbacks=[Kill(3, 4, "step")], checkpoint_dir=tmp_path)
        return start(checkpoint_dir=tmp_path)

    whole = start()
    assert same_weights(resumed().model, whole.model)
    for cls in (torch.optim.SGD, torch.optim.lr_scheduler.StepLR):  # control: the state of either matters
        with monkeypatch.context() as patch:
            patch.setattr(cls, "load_state_dict", lambda self, state: None)
            assert not same_weights(resumed().model, whole.model)


def take_turns(optimizer: Any, state: Any, **_: Any) -> None:
    if isinstance(optimizer, PhasedOptimizer):
        optimizer.phase = ("a", "b")[state.step % 2]


TURNS = On(step_begin=take_turns)


def phased(parameters: Any) -> PhasedOptimizer:
    return PhasedOptimizer({name: torch.optim.SGD(parameters, lr=0.1, momentum=0.9) for name in "ab"})


def test_phases_keep_their_own_state(tmp_path: Path) -> None:
    x, velocity = Quadratic().x.detach(), {0: torch.zeros(2).double(), 1: torch.zeros(2).double()}
    for step in range(6):
        velocity[step % 2] = 0.9 * velocity[step % 2] + A @ x - B
        x = x - 0.1 * velocity[step % 2]
    torch.testing.assert_close(end(phased, 6, callbacks=[TURNS]), x, rtol=1e-12, atol=1e-14)
    shared = end("sgd", 6, optimizer_options={"momentum": 0.9}, callbacks=[TURNS])
    assert (shared - x).abs().max() > 1e-2  # control: one state for both ends elsewhere
    model, args = Quadratic(), TrainArguments(6, 0.1, checkpoint_dir=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(model, model.step, args, [TURNS, Kill(3, 4, "step")], optimizer=phased)
    model = Quadratic()
    fit(model, model.step, args, [TURNS], optimizer=phased)
    torch.testing.assert_close(model.x.detach(), x, rtol=1e-12, atol=1e-14)
