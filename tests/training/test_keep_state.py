"""What `KeepState` refuses: calls at another rate than the optimiser's steps, and things that are no training."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import gunlearn as gu
from gunlearn.errors import InvalidInputError

_RATE = r"Expected one call of 'step' after each step of the optimiser \(got {} calls while it counted {} steps\)"


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))


def one_step(model: nn.Module, optimizer: torch.optim.Optimizer, parts: tuple[int, ...] = (0, 1)) -> None:
    optimizer.zero_grad()
    for part in parts:
        for parameter in model[part].parameters():
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def run(
    calls: Callable[[int], int],
    steps: int = 100,
    make: Any = torch.optim.Adam,
    planned: int | None = 100,
    resumed: int = 0,
) -> gu.TrainingState:
    """Take steps and after each of them as many calls as `calls(step)` says."""
    model, keeping = net(), gu.KeepState(planned)
    optimizer = make(model.parameters(), lr=1e-3)
    for _ in range(resumed):
        one_step(model, optimizer)
    for step in range(1, steps + 1):
        one_step(model, optimizer)
        for _ in range(calls(step)):
            keeping.step(model, optimizer)
    return keeping.state(model)


@pytest.mark.parametrize("planned", [100, 1000, None])
@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.NAdam, torch.optim.Adagrad])
@pytest.mark.parametrize("resumed", [0, 30])
def test_calls_at_another_rate_than_the_steps_are_refused(planned: int | None, make: Any, resumed: int) -> None:
    """One call per step is the control, also where the optimiser counted thirty steps before."""
    assert run(lambda step: 1, make=make, planned=planned, resumed=resumed).steps == 100
    with pytest.raises(InvalidInputError, match=_RATE.format(r"\d+", r"\d+")):
        run(lambda step: int(step % 10 == 0), make=make, planned=planned, resumed=resumed)
    with pytest.raises(InvalidInputError, match=_RATE.format(r"\d+", r"\d+")):
        run(lambda step: 4, make=make, planned=planned, resumed=resumed)


def test_the_error_says_how_often_and_what_to_do() -> None:
    """Two calls, after steps 10 and 20; checkpoints are due after 50 calls, so that `state` finds it."""
    with pytest.raises(InvalidInputError, match=_RATE.format(1, 10) + r"; call .*after each 'optimizer.step\(\)'"):
        run(lambda step: int(step % 10 == 0), steps=20, planned=1000)


def test_a_few_steps_that_a_gradient_scaler_left_out_pass() -> None:
    """A call without a step at three of a hundred; the control, at each second one, is refused."""
    assert run(lambda step: 1 + (step in (2, 40, 80))).steps == 103
    with pytest.raises(InvalidInputError, match=_RATE.format(r"\d+", r"\d+")):
        run(lambda step: 1 + step % 2)


def test_steps_of_one_part_at_a_time_and_optimisers_that_count_nothing_pass() -> None:
    model, keeping = net(), gu.KeepState(40)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(40):
        one_step(model, optimizer, parts=(0,) if step < 25 else (1,))  # of which each counts its own
        keeping.step(model, optimizer)
    assert keeping.state(model).steps == 40
    assert run(lambda step: int(step % 10 == 0), make=torch.optim.SGD).steps == 10


def test_steps_after_the_settled_weights_need_no_calls() -> None:
    """The best weights were settled; what the optimiser did later is not theirs."""
    model, keeping = net(), gu.KeepState(40)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(20):
        one_step(model, optimizer)
        keeping.step(model, optimizer)
    best = copy.deepcopy(model.state_dict())
    keeping.settle()
    for _ in range(20):
        one_step(model, optimizer)
    model.load_state_dict(best)
    assert keeping.state(model).steps == 20


def kept() -> tuple[nn.Module, torch.optim.Optimizer, gu.KeepState]:
    model, keeping = net(), gu.KeepState(20)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    one_step(model, optimizer)
    keeping.step(model, optimizer)
    return model, optimizer, keeping


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (lambda m, o: (o, m), "Adam and Sequential"),
        (lambda m, o: (m, None), "Sequential and NoneType"),
        (lambda m, o: (m, o.state_dict()), "Sequential and dict"),
        (lambda m, o: (m.state_dict(), o), "OrderedDict and Adam"),
        (lambda m, o: (m, [o]), "one optimiser"),
    ],
)
def test_a_step_of_anything_but_a_model_and_its_optimiser_is_refused(arguments: Any, said: str) -> None:
    model, optimizer, keeping = kept()
    with pytest.raises(InvalidInputError, match=rf"Expected .*{said}"):
        keeping.step(*arguments(model, optimizer))
    assert keeping.state(model).steps == 1  # what is refused is not counted


@pytest.mark.parametrize("steps", [1, 20])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda m: None, r"torch module that was trained \(got None\)"),
        (lambda m: m.state_dict(), r"torch module that was trained \(got OrderedDict\)"),
        (AveragedModel, r"got AveragedModel, .*unlearn an average of its weights .*optimizer=optimizer.state_dict\(\)"),
    ],
)
def test_a_state_of_anything_but_the_trained_model_is_refused(steps: int, given: Any, said: str) -> None:
    """With twenty steps the last one has a checkpoint, with one it has none."""
    model, keeping = net(), gu.KeepState(40)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(steps):
        one_step(model, optimizer)
        keeping.step(model, optimizer)
    with pytest.raises(InvalidInputError, match=said):
        keeping.state(given(model))
    assert keeping.state(model).steps == steps


@pytest.mark.parametrize("state", [{}, None, {"taken": 3}])
def test_what_no_state_dict_returned_is_not_loaded(state: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"Expected what 'state_dict\(\)' returned, .*\(got "):
        gu.KeepState(5).load_state_dict(state)


def test_a_resumed_loop_without_a_step_is_told_so() -> None:
    model, _, keeping = kept()
    resumed = gu.KeepState(20)
    resumed.load_state_dict(keeping.state_dict())
    with pytest.raises(InvalidInputError, match="each step of the resumed part"):
        resumed.state(model)
