"""Whether a training had settled, from its weights and checkpoints; how long Adam remembers."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

import gunlearn as gu
from gunlearn.methods import Auto
from gunlearn.training.second_moments import shorten_memory
from gunlearn.training.settled import GROWING, growth_rate
from gunlearn.training.training_state import Moment


def state_of(model: nn.Module, before: dict[str, Any], step: int = 80) -> gu.TrainingState:
    moment = Moment(step, before, {})
    return gu.TrainingState(steps=100, total=100, kind="", optimizer={}, moments=(moment,))


def test_growth_is_that_of_the_norm_over_the_share_of_the_training() -> None:
    model = nn.Linear(3, 2).double()
    before = {name: value * math.exp(-0.06) for name, value in model.state_dict().items()}
    assert growth_rate(state_of(model, before), model) == pytest.approx(0.3)
    assert growth_rate(state_of(model, before, 70), model) == pytest.approx(0.2)
    shrunk = {name: value * math.exp(0.06) for name, value in model.state_dict().items()}
    assert growth_rate(state_of(model, shrunk), model) == pytest.approx(0.3)  # falling is no rest either
    turned = {"weight": model.weight.detach().flip(0), "bias": -model.bias.detach()}  # moved, and no longer
    assert growth_rate(state_of(model, turned), model) == pytest.approx(0)
    early = {name: torch.zeros_like(value) + 1e-3 for name, value in before.items()}
    moments = (Moment(5, early, {}), Moment(80, before, {}), Moment(100, model.state_dict(), {}))
    own = gu.TrainingState(steps=100, total=100, kind="", optimizer={}, moments=moments)
    assert growth_rate(own, model) == pytest.approx(0.3)  # not that since the beginning
    assert growth_rate(state_of(model, before, 5), model) is None
    assert growth_rate(state_of(model, {"weight": before["weight"]}), model) is None
    model.bias.requires_grad_(False)
    model.bias.data.mul_(1e6)
    assert growth_rate(state_of(model, before), model) == pytest.approx(0.3)  # of what learns
    none = gu.TrainingState(steps=100, total=100, kind="", optimizer={})
    assert growth_rate(none, model) is None


def test_auto_goes_on_where_weights_had_settled_and_back_where_they_grew() -> None:
    data = gu.node_split(gu.load("karate"), 0.2, 0.2, seed=0)
    chosen = {}
    for decay in (0.1, 0.0):
        torch.manual_seed(0)
        base = gu.train(
            gu.GCN(data.num_features, 8, 4),
            data,
            "node_classification",
            epochs=400,
            lr=1e-2,
            weight_decay=decay,
            eval_every=400,
        )
        assert (growth_rate(base.training, base.model) <= GROWING) == (decay > 0)
        for request in (gu.ForgetNodes(count=2), gu.ForgetEdges(count=2)):
            task, partition = gu.tasks.as_task("node_classification"), request.resolve(data)
            chosen[decay, partition.forgets] = Auto(training=base).choose(task, partition, base.model)
    for forgets in (("nodes",), ("edges",)):
        assert chosen[0.1, forgets][0] == "continued_training"
        assert "teacher_share" not in chosen[0.1, forgets][1]
        assert "had settled" in chosen[0.1, forgets][2]
        assert "had not settled" in chosen[0.0, forgets][2]
    assert chosen[0.0, ("edges",)][0] == "replay"
    name, options, _ = chosen[0.0, ("nodes",)]
    assert (name, options["budget"], options["teacher_share"]) == ("continued_training", 0.2, 0.62)


def test_a_shorter_memory_keeps_the_next_step_and_forgets_sooner() -> None:
    torch.manual_seed(0)
    one = nn.Parameter(torch.randn(5, dtype=torch.double))
    optimizer = torch.optim.Adam([one], lr=0.1)
    for _ in range(30):
        one.grad = 10 * torch.randn(5, dtype=torch.double)
        optimizer.step()
    moment = optimizer.state[one]["exp_avg_sq"] / (1 - 0.999**30)
    other = copy.deepcopy(optimizer)
    shorten_memory(other, 30)  # the shortest memory, of 20 steps
    group, parameter = other.param_groups[0], other.param_groups[0]["params"][0]
    assert group["betas"] == (0.9, 0.95)
    before = other.state[parameter]["exp_avg_sq"].clone()
    torch.testing.assert_close(before / (1 - 0.95**30), moment)
    for made in (optimizer, other):
        for _ in range(30):
            held = made.param_groups[0]["params"][0]
            held.grad = torch.ones_like(held)
            made.step()
    old, new = (made.state[made.param_groups[0]["params"][0]]["exp_avg_sq"] for made in (optimizer, other))
    torch.testing.assert_close(new, 0.95**30 * before + (1 - 0.95**30))
    assert float((old / (1 - 0.999**60)).min()) > 1.2 * float(new.max())  # control: the longer memory
    middle = copy.deepcopy(optimizer)
    shorten_memory(middle, 100)
    assert middle.param_groups[0]["betas"] == (0.9, 0.97)
    long = copy.deepcopy(optimizer)
    shorten_memory(long, 100_000)  # never longer than it was
    assert long.param_groups[0]["betas"] == (0.9, 0.999)
    sgd = torch.optim.SGD([one], lr=0.1, momentum=0.9)
    shorten_memory(sgd, 30)
    assert "betas" not in sgd.param_groups[0]
