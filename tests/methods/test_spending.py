"""How far back a request goes, how long Adam remembers, which rise of the loss is let pass, how many nodes are few."""

import math
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import gunlearn as gu
from gunlearn.methods import Auto
from gunlearn.methods.any_task.by_training import Choice
from gunlearn.methods.any_task.careful_teacher import DoubtedTeacher
from gunlearn.methods.any_task.second_look import Look
from gunlearn.methods.any_task.training_budget import is_small
from gunlearn.training.settled import GROWING, growth_rate
from gunlearn.training.training_state import Moment
from tests.methods.cases import same_weights
from tests.methods.forgetting import club
from tests.training.callbacks import On

TASK = "node_classification"
ALL = (80, 90, 95)


@cache
def growing(steps: int = 100) -> tuple[Any, gu.Result]:
    """A training whose weights still grow."""
    data = gu.node_split(club(), 0.2, 0.2)
    torch.manual_seed(0)
    return data, gu.train(gu.GCN(20, 8, 4), data, TASK, epochs=steps, lr=1e-2, eval_every=steps)


@pytest.mark.parametrize(
    ("count", "kept", "budget", "back"),
    [
        (3, ALL, None, 5),  # a twentieth
        (3, (80, 90), None, 10),  # no checkpoint is so near: the nearest within the budget
        (3, (80,), None, 20),
        (11, ALL, None, 20),  # a fifth
        (11, ALL, 0.12, 10),  # what the budget allows of it
    ],
)
def test_auto_goes_back_by_the_share_of_the_request(count: int, kept: Any, budget: float | None, back: int) -> None:
    data, base = growing()
    state = replace(base.training, moments=tuple(m for m in base.training.moments if m.step in kept))
    assert len(state.moments) == len(kept)
    assert growth_rate(state, base.model) > GROWING
    result = gu.unlearn(base.model, data, gu.ForgetEdges(count=count), "auto", TASK, training=state, budget=budget)
    assert (result.notes["chosen"], result.notes["from_step"], result.epochs) == ("replay", 100 - back, back)


def test_a_share_reaches_its_own_checkpoint() -> None:
    """15 / 22 * 22 is less than 15 in floating point."""
    state = growing()[1].training
    for steps in range(1, 60):
        for back in range(1, steps):
            one = replace(state, steps=steps, total=steps, moments=(replace(state.moments[0], step=steps - back),))
            assert one.earliest(back / steps * steps) is one.latest(back / steps * steps) is one.moments[0]
            assert one.earliest((back - 0.01) / steps * steps) is None  # control


@pytest.mark.parametrize(("count", "options"), [(10, {}), (11, {}), (11, {"steps": 100}), (11, {"epochs": 3})])
def test_adam_forgets_within_a_run_for_more_than_ten_items(count: int, options: dict[str, int]) -> None:
    """Control: ten items, and passes, keep the memory of the training."""
    data, base = growing(400)
    seen: list[float] = []
    watch = On(step_begin=lambda optimizer, **_: seen.append(optimizer.param_groups[0]["betas"][1]))
    request, told = gu.ForgetEdges(count=count), {"training": base, "callbacks": [watch], **options}
    result = gu.unlearn(base.model, data, request, "continued_training", TASK, **told)
    shorter = count > 10 and "epochs" not in options
    assert set(seen) == {1 - 3 / result.epochs if shorter else 0.999}
    assert result.epochs >= 60 or not shorter  # more than the shortest memory, of 20 steps, asks for


@pytest.mark.parametrize(
    ("rise", "state", "back"), [(0.01, True, False), (0.5, True, True), (0.01, False, True), (0.0, False, False)]
)
def test_a_training_s_own_state_may_raise_the_loss_a_little(
    rise: float, state: bool, back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retraining may, too; without a state any rise is taken back."""
    data, base = growing()
    losses = [torch.ones(3).double(), torch.ones(3).double() * (1 + rise)]
    monkeypatch.setattr(f"{Look.__module__}.training_losses", lambda *_: losses.pop(0))
    given = {"training": base} if state else {"lr": 1e-3, "weight_decay": 0.0}
    result = gu.unlearn(base.model, data, gu.ForgetEdges(count=3), "continued_training", TASK, steps=3, **given)
    assert same_weights(result.model, base.model) is back
    assert ("may have minimised another loss" in str(result.notes.get("why"))) is (state and back)
    assert ("give the state of the training" in str(result.notes.get("why"))) is (back and not state)


@pytest.mark.parametrize(("forgotten", "touched", "small"), [(10, 10, True), (10, 11, False), (11, 10, False)])
def test_few_nodes_touch_a_tenth_of_the_graph_at_most(forgotten: int, touched: int, small: bool) -> None:
    nodes = SimpleNamespace(num_forget=forgotten, forgets=("nodes",), touched_nodes=torch.arange(touched))
    nodes.data = SimpleNamespace(num_nodes=100)
    assert is_small(nodes) is small
    nodes.forgets = ("edges",)  # of which ten may touch more
    assert is_small(nodes) is (forgotten <= 10)


@pytest.mark.parametrize(
    ("growth", "left", "known", "chosen"),
    [(0.5, 22, False, "replay"), (0.5, 21, False, None), (0.5, 20, True, "replay"), (0.0, 22, False, None)],
)
def test_what_a_teacher_of_no_use_left_is_spent_by_the_same_rules(
    growth: float, left: int, known: bool, chosen: str | None
) -> None:
    """Going back 20 of 100 steps takes two passes more that look at the loss; where it had settled, it goes on."""
    model = nn.Linear(3, 2).double()
    before = {name: value * math.exp(-0.2 * growth) for name, value in model.state_dict().items()}
    state = gu.TrainingState(100, 100, "Adam", {"state": {}, "param_groups": []}, moments=(Moment(80, before, {}),))
    state = replace(state, known_loss=known)
    auto = Auto(training=state, budget=(left + 12) / 100)
    rules = auto._by_training(SimpleNamespace(), SimpleNamespace(), model)
    (name, options, why), taken = rules.without_teacher(DoubtedTeacher("it is of no use", 12), Choice("", {}, "so"))
    assert name == (chosen or "continued_training")
    assert why == "so; but it is of no use, so that it was left out"
    assert options["budget" if chosen else "at_most"] == pytest.approx(0.2 if chosen else left / 100)
    assert taken == 0.12
