"""The rules of `auto` that read a training, by what is known of it alone."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch_geometric.nn as pyg
from torch import nn

import gunlearn as gu
from gunlearn.methods.any_task.by_training import ByTraining
from gunlearn.methods.any_task.known_training import KnownTraining
from gunlearn.training.training_state import Moment
from tests.methods.forgetting import club

TASK = "node_classification"


def rules(
    moments: tuple[int, ...] = (),
    growth: float | None = 0.5,
    budget: float | None = None,
    source: bool = True,
    forgotten: int = 5,
) -> ByTraining:
    """Rules for a few edges, and a training of a hundred steps with checkpoints at some."""
    state = gu.TrainingState(100, 100, "Adam", {}, moments=tuple(Moment(step, {}, {}) for step in moments))
    known = KnownTraining(state, state, 100, growth) if source else KnownTraining(None, None, 100, None)
    partition: Any = SimpleNamespace(forgets=("edges",), num_forget=forgotten)
    task: Any = SimpleNamespace(name="link_prediction", measured_as="")
    return ByTraining(known, {"training": state} if source else {}, budget, task, partition, nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("moments", "budget", "share"),
    [
        ((80, 90, 97), None, 0.05),  # one lies within a twentieth, which is what it may spend
        ((70, 85), None, 0.15),  # none is: the nearest to the end within the budget, not the earliest
        ((70, 85), 0.2, 0.15),
        ((80, 96), 0.04, 0.04),
    ],
)
def test_replay_goes_back_to_the_checkpoint_that_its_share_allows(
    moments: tuple[int, ...], budget: float | None, share: float
) -> None:
    method, options, why = rules(moments, budget=budget).choice()
    assert (method, options["budget"]) == ("replay", pytest.approx(share))
    assert why == "the training had not settled: at its end the norm of the weights changed by 50.0% per training"


def test_each_lack_of_a_checkpoint_has_words_of_its_own() -> None:
    """None at all, none within the budget, none that tells the growth; the control has one, see above."""
    without, far, unknown = (
        rules(moments, growth, budget).choice()
        for moments, growth, budget in (((), 0.5, None), ((70,), 0.5, 0.04), ((), None, None))
    )
    assert all(choice.method == "continued_training" for choice in (without, far, unknown))
    assert "it left no checkpoint to go back to" in without.why
    assert far.why.startswith("no checkpoint lies in its last 4.0%, though at its end")
    assert unknown.why == "the state of its training is at hand, without a checkpoint"
    assert "no state of the training is given" in rules(source=False).choice().why


@pytest.mark.parametrize(("budget", "name"), [(None, "at_most"), (0.05, "at_most"), (0.04, "budget")])
def test_a_share_below_the_usual_one_is_all_that_may_be_spent(budget: float | None, name: str) -> None:
    """At least a twentieth for a few edges: `at_most` lets a run take more while predictions move."""
    options = rules(growth=0.0, budget=budget).choice().options
    assert options[name] == (0.33 if budget is None else budget)
    assert {"at_most", "budget"} & set(options) == {name}


@pytest.mark.parametrize(("budget", "taught"), [(None, True), (0.2, True), (0.19, False)])
def test_a_teacher_under_batch_normalisation_takes_all_of_the_budget(budget: float | None, taught: bool) -> None:
    """The controls: a budget below a fifth, and edges, of which no teacher knows anything."""
    data = gu.node_split(club(), 0.2, 0.2)
    torch.manual_seed(0)
    model = pyg.GCN(20, 8, 2, 4, norm="batch_norm")
    base = gu.train(model, data, TASK, epochs=100, lr=1e-2, weight_decay=5e-4)
    task = gu.tasks.as_task(TASK)
    for request, may in ((gu.ForgetNodes(count=2), taught), (gu.ForgetEdges(count=2), False)):
        known = KnownTraining(base.training, base.training, 100, 0.0)
        partition = request.resolve(data)
        choice = ByTraining(known, {"training": base.training}, budget, task, partition, base.model).choice()
        assert choice.method == "continued_training"
        assert ("teacher_share" in choice.options) is may
        assert ("batch normalisation hides" in choice.why) is may
        assert not may or choice.options["budget"] == (0.33 if budget is None else budget)
