"""A run goes on while what it forgets moves, and no longer."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch_geometric.nn import GCNConv

import gunlearn as gu
from gunlearn.errors import InvalidInputError
from gunlearn.methods import METHODS, Problem, run_method
from gunlearn.methods.any_task.predictions_moved import Moved
from gunlearn.methods.any_task.second_look import Look
from gunlearn.methods.any_task.still_moving import FEWEST, StillMoving
from gunlearn.methods.base import Outcome
from gunlearn.training.callbacks import TrainState
from tests.methods.cases import same_weights
from tests.methods.forgetting import club
from tests.training.callbacks import Kill, On

TASK = "node_classification"
REQUEST = gu.ForgetNodes(count=3, seed=1)


class OneWeight(nn.Module):
    """Predicts two classes whose log-odds are its one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x: Any, edge_index: Any) -> Any:
        return torch.stack([self.weight.expand(x.size(0)), torch.zeros(x.size(0))], dim=-1)


def watched(steps: int, most: int, at: Any) -> int:
    """Return the steps that are taken where the log-odds after t steps are `at(t)`."""
    data = gu.node_split(club(), 0.2, 0.2)
    data.y = (data.y > 0).long()
    task, partition, model = gu.tasks.as_task(TASK), REQUEST.resolve(data), OneWeight()
    parts = task.parts(partition, "retain", model, ("forget", "retain"))
    problem = Problem(model, copy.deepcopy(model), partition, task)
    moving = StillMoving(Moved.forgotten(problem, parts, None), steps, most)
    taken = 0
    while not moving.ends():
        taken += 1
        with torch.no_grad():
            model.weight.fill_(at(taken))
    return taken


@pytest.mark.parametrize(
    ("at", "steps"),
    [
        (lambda t: 0.01 * t, 100),  # straight on: fourfold divergence in twice the steps
        (lambda t: 0.05 * t**0.5, 20),  # as a walk at random: twofold
        (lambda t: min(0.05 * t, 0.3), 20),  # arrived
        (lambda t: min(0.02 * t, 0.4), 40),  # arrived after twice the steps
        (lambda t: 0.0, 20),  # does not move at all
    ],
)
def test_steps_are_doubled_while_predictions_move_on(at: Any, steps: int) -> None:
    assert watched(20, 100, at) == steps
    assert watched(20, 20, at) == 20  # no budget is left


class Dropped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.drop = GCNConv(20, 16), GCNConv(16, 4), nn.Dropout(0.5)

    def forward(self, x: Any, edge_index: Any) -> Any:
        return self.b(self.drop(self.a(self.drop(x), edge_index).relu()), edge_index)


def trained(model: nn.Module, epochs: int = 400) -> tuple[Any, gu.Result]:
    data = gu.node_split(club(), 0.2, 0.2)
    return data, gu.train(model, data, TASK, epochs=epochs, lr=1e-2, weight_decay=5e-3, eval_every=epochs)


@pytest.mark.parametrize(("ratio", "steps"), [(math.inf, 50), (0.0, 133)])
def test_a_run_takes_more_than_the_usual_share_only_where_it_has_to(
    ratio: float, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{StillMoving.__module__}._RATIO", ratio)
    data, base = trained(Dropped())
    result = gu.unlearn(base.model, data, REQUEST, "continued_training", TASK, training=base)
    assert (result.epochs + result.notes["passes"], result.notes["passes"]) == (steps, 3)
    usual = gu.unlearn(base.model, data, REQUEST, "continued_training", TASK, training=base, budget=1 / 8)
    assert (usual.epochs + usual.notes["passes"], usual.notes["passes"]) == (50, 2)  # a budget is what is spent
    edges = gu.unlearn(base.model, data, gu.ForgetEdges(count=11), "continued_training", TASK, training=base)
    assert edges.epochs + edges.notes["passes"] == 80  # no forgotten item is predicted: the usual share


def test_a_training_that_had_not_settled_moves_on_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{StillMoving.__module__}._RATIO", 0.0)
    data, base = trained(Dropped())
    for growth, price in ((0.05, 0.33), (0.5, 0.125)):
        state = replace(base.training, moments=(), growth=growth)
        result = gu.unlearn(base.model, data, REQUEST, "continued_training", TASK, training=state, at_most=0.33)
        assert result.notes["price"] == price
    for share in (0.01, 0.1):
        less = gu.unlearn(base.model, data, REQUEST, "continued_training", TASK, training=base, at_most=share)
        assert less.notes["price"] == share


def test_predictions_are_those_without_dropout() -> None:
    data = gu.node_split(club(), 0.2, 0.2)
    task, partition, model = gu.tasks.as_task(TASK), REQUEST.resolve(data), Dropped().train()
    parts = task.parts(partition, "retain", model, ("forget", "retain"))
    problem = Problem(model, copy.deepcopy(model), partition, task)
    moving = StillMoving(Moved.forgotten(problem, parts, None), 20, 40)
    assert moving.moved.far() < 1e-12
    assert model.training


@pytest.mark.parametrize(
    ("rise", "scatter", "slack", "back"),
    [
        (0.01, 0.0, 0.0, True),
        (-0.01, 0.0, 0.0, False),
        (0.01, 0.01, 0.0, False),  # draws explain it
        (0.03, 0.01, 0.0, True),
        (0.04, 0.0, 0.05, False),
        (0.06, 0.0, 0.05, True),
    ],
)
def test_a_rise_counts_where_neither_draws_nor_the_state_explain_it(
    rise: float, scatter: float, slack: float, back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = [torch.ones(3).double(), torch.tensor([1 + rise - scatter, 1 + rise, 1 + rise + scatter]).double()]
    monkeypatch.setattr(f"{Look.__module__}.training_losses", lambda *_: losses.pop(0))
    model = OneWeight()
    look = Look(model, None, None, None, 0)  # type: ignore[arg-type]
    with torch.no_grad():
        model.weight.fill_(1.0)
    outcome = Outcome(model, TrainState(step=1))
    losses_found = look.after(outcome, torch.optim.SGD(model.parameters(), lr=0.1))
    assert losses_found is not None
    if losses_found.rose(slack):
        look.take_back(outcome, losses_found, "")
    assert (bool(outcome.unchanged), float(model.weight)) == (back, 0.0 if back else 1.0)


def test_auto_goes_on_up_to_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{StillMoving.__module__}._RATIO", 0.0)
    data, base = trained(Dropped())
    for budget in (0.05, 0.2, 0.5):
        result = gu.unlearn(base.model, data, REQUEST, "auto", TASK, training=base, budget=budget)
        assert result.notes["price"] == budget


def test_the_rate_falls_over_the_last_quarter_of_the_steps_that_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{StillMoving.__module__}._RATIO", 0.0)
    data, base = trained(Dropped())
    rates: list[float] = []
    watch = On(step_begin=lambda optimizer, **_: rates.append(optimizer.param_groups[0]["lr"]))
    gu.unlearn(base.model, data, REQUEST, "continued_training", TASK, training=base, callbacks=[watch], at_most=0.31)
    steps = len(rates)
    assert steps == 124 - 3
    assert rates == pytest.approx([1e-2 * min(1, 4 * (1 - t / steps)) for t in range(steps)])


def test_short_trainings_get_as_many_steps_as_it_takes_to_tell() -> None:
    data, base = trained(Dropped(), 90)
    result = gu.unlearn(base.model, data, REQUEST, "continued_training", TASK, training=base)
    assert FEWEST <= result.epochs <= 30
    with pytest.raises(InvalidInputError, match="at_most"):
        gu.unlearn(base.model, data, REQUEST, "continued_training", TASK, training=base, at_most=0.0)


@pytest.mark.parametrize("at", [30, 60])
def test_a_killed_run_goes_on_to_the_same_bits(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{StillMoving.__module__}._RATIO", 0.0)
    data, base = trained(Dropped())
    method, task = METHODS["continued_training"](training=base), gu.tasks.as_task(TASK)
    partition = REQUEST.resolve(data)

    def run(kill_at: int | None) -> gu.Result:
        callbacks = [Kill(at, kill_at, "step")]
        return run_method(method, base.model, partition, task, callbacks=callbacks, checkpoint_dir=tmp_path)

    with pytest.raises(KeyboardInterrupt):
        run(at + 3)
    resumed = run(None)
    whole = run_method(method, base.model, partition, task)
    assert resumed.epochs == whole.epochs > 60
    assert same_weights(resumed.model, whole.model)
