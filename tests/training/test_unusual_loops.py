"""Training loops of users: resumed half way, with optimisers of classes of their own, with layers dropped at random."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR
from transformers.optimization import Adafactor

import gunlearn as gu
from gunlearn.errors import InvalidInputError
from gunlearn.methods.any_task.little_decay import lacking_decay
from gunlearn.tasks.sampling import BatchOptions
from gunlearn.training.another_loss import ByMemory, gradient_by_memory
from gunlearn.training.resumed_optimizer import resumed_optimizer, started_anew
from tests.methods.forgetting import club

NODES, REQUEST = "node_classification", gu.ForgetNodes(count=2)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-3)


def loop(
    steps: int = 40,
    make: Callable[[nn.Module], Any] = adam,
    model: nn.Module | None = None,
    each: Callable[[int, nn.Module, Any], None] = lambda step, model, optimizer: None,
    sign: float = 1.0,
    smoothing: float = 0.0,
) -> tuple[Any, nn.Module, Any, gu.KeepState]:
    """Train by a plain loop; `each` is called before each step."""
    data = gu.node_split(club(), 0.2, 0.2)
    torch.manual_seed(0)
    model = gu.GCN(20, 8, 4) if model is None else model
    optimizer, keeping = make(model), gu.KeepState(steps=steps)
    for step in range(steps):
        each(step, model, optimizer)
        optimizer.zero_grad()
        out = model(data.x, data.edge_index)[data.train_mask]
        loss = cross_entropy(out, data.y[data.train_mask], label_smoothing=smoothing)
        (sign * loss).backward()
        optimizer.step()
        keeping.step(model, optimizer)
    return data, model, optimizer, keeping


@pytest.mark.parametrize("resumed", [False, True])
def test_rates_of_a_resumed_part_are_not_those_of_the_training(resumed: bool) -> None:
    """The control notes all forty steps; else the last eight alone, whose rates are near zero."""
    data = gu.node_split(club(), 0.2, 0.2)
    torch.manual_seed(0)
    model = gu.GCN(20, 8, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1.0)
    scheduler, keeping = CosineAnnealingLR(optimizer, 40), gu.KeepState(steps=40)
    for step in range(40):
        if resumed and step == 32:
            keeping = gu.KeepState(steps=8)
        optimizer.zero_grad()
        cross_entropy(model(data.x, data.edge_index)[data.train_mask], data.y[data.train_mask]).backward()
        optimizer.step()
        keeping.step(model, optimizer)
        scheduler.step()
    state = keeping.state(model)
    assert state.total == 40
    assert state.knows_all_rates is not resumed
    notes = gu.unlearn(model, data, REQUEST, "auto", NODES, training=state, budget=1).notes
    assert ("at a rate of 0.01, changed as then" in notes["why"]) is not resumed
    assert ("how its learning rate changed" in notes.get("lacks", "")) is resumed
    # A decay of 1 at a mean rate of .005 leaves .82 of a weight; at the highest one, which alone is known, .67.
    assert bool(lacking_decay(state, None, None)) is not resumed


def test_an_optimiser_that_climbs_is_refused() -> None:
    """The control lowers the loss."""

    def climbing(model: nn.Module) -> Any:
        return torch.optim.Adam(model.parameters(), lr=1e-2, maximize=True)

    data, model, optimizer, _ = loop(make=climbing, sign=-1.0)
    for options in ({}, {"budget": 1}):
        with pytest.raises(InvalidInputError, match=r"lowers the loss \(got Adam with maximize=True"):
            gu.unlearn(model, data, REQUEST, "auto", NODES, optimizer=optimizer, **options)
    data, model, optimizer, _ = loop()
    gu.unlearn(model, data, REQUEST, "auto", NODES, optimizer=optimizer)


def test_an_optimiser_without_a_rate_is_kept_and_refused_in_words() -> None:
    data, model, optimizer, keeping = loop(make=lambda model: Adafactor(model.parameters()))
    keeping.state(model)
    with pytest.raises(InvalidInputError, match=r"with a learning rate \(got Adafactor with lr=None"):
        gu.unlearn(model, data, REQUEST, "auto", NODES, optimizer=optimizer)


class Clipped(torch.optim.Adam):
    """Adam that holds its gradients by an attribute of its own, and a copy of its parameters' list."""

    def __init__(self, params: Any, clip: float, **options: Any) -> None:
        super().__init__(params, **options)
        self.clip = clip
        self.own = [p for group in self.param_groups for p in group["params"]]

    def step(self, closure: Any = None) -> Any:
        nn.utils.clip_grad_value_(self.own, self.clip)
        return super().step(closure)


def test_a_class_of_ones_own_goes_on_with_its_attributes() -> None:
    """The oracle: the optimiser itself takes the next step; the parameters that it keeps are the copy's."""
    data, model, optimizer, _ = loop(make=lambda model: Clipped(model.parameters(), 1e-3, lr=1e-2))
    CosineAnnealingLR(optimizer, 10)  # which puts a `step` of its own into the optimiser
    own = gu.GCN(20, 8, 4)
    own.load_state_dict(model.state_dict())
    resumed = resumed_optimizer(optimizer, list(own.parameters()))
    assert [id(p) for p in resumed.own] == [id(p) for p in own.parameters()]
    for net, steps in ((model, optimizer), (own, resumed)):
        net.zero_grad()
        cross_entropy(net(data.x, data.edge_index), data.y).backward()
        steps.step()
    assert all(map(torch.equal, model.state_dict().values(), own.state_dict().values()))
    new = gu.GCN(20, 8, 4)
    anew = started_anew(resumed, list(own.parameters()), list(new.parameters()))
    assert (anew.clip, [id(p) for p in anew.own]) == (1e-3, [id(p) for p in new.parameters()])
    result = gu.unlearn(model, data, REQUEST, "continued_training", NODES, optimizer=optimizer, steps=3)
    assert result.epochs == 3


def test_a_group_that_was_added_half_way_has_no_rate_before() -> None:
    def each(step: int, model: nn.Module, optimizer: Any) -> None:
        if step == 20:
            optimizer.add_param_group({"params": list(model.parameters())[2:], "lr": 5e-3})

    def first(model: nn.Module) -> Any:
        return torch.optim.Adam(list(model.parameters())[:2], lr=1e-2)

    _, model, _, keeping = loop(make=first, each=each)
    rates = keeping.state(model).rates
    assert rates is not None
    expected = torch.tensor([[1e-2, 0.0]] * 20 + [[1e-2, 5e-3]] * 20)
    torch.testing.assert_close(rates, expected)


class Dropped(nn.Module):
    """A network whose second part is left out of half of the training passes."""

    def __init__(self) -> None:
        super().__init__()
        self.always, self.sometimes = gu.GCN(20, 8, 4), nn.Linear(20, 4)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        out = self.always(x, edge_index)
        return out if self.training and bool(torch.rand(()) < 0.5) else out + self.sometimes(x)


@pytest.mark.parametrize("seed", range(6))
def test_a_part_without_a_gradient_in_one_of_two_passes_is_left_out(seed: int) -> None:
    data, model, optimizer, _ = loop(model=Dropped())
    found = gradient_by_memory(optimizer, model, data, gu.NodeClassification(), BatchOptions(), seed)
    assert found is not None
    assert found.size > 0


def test_steps_that_the_optimiser_does_not_remember_at_all_are_another_loss() -> None:
    """Its mean gradient may be zero; the control's is not."""
    assert ByMemory(1.0, 0.7, 0.0).is_another
    assert not ByMemory(1.0, 0.7, 0.5).is_another
    assert not ByMemory(1.0, 0.5, 0.0).is_another
    data, model, optimizer, _ = loop(steps=400, smoothing=0.3)
    for state in optimizer.state.values():
        state["exp_avg"].zero_()
    with pytest.warns(UserWarning, match="inf times as strongly"):
        gu.unlearn(model, data, REQUEST, "continued_training", NODES, optimizer=optimizer)


def test_an_optimiser_that_never_stepped_says_the_recipe_of_a_retraining() -> None:
    """Going on with it is refused."""
    data, model, _, _ = loop()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    known = {"optimizer": optimizer, "training_steps": 40}
    result = gu.unlearn(model, data, REQUEST, "auto", NODES, budget=1, **known)
    assert "40 steps of Adam at a rate of 0.02" in result.notes["why"]
    with pytest.raises(InvalidInputError, match="has taken no step"):
        gu.unlearn(model, data, REQUEST, "auto", NODES, **known)


def test_groups_of_one_rate_below_the_usual_one_are_not_said_to_be_lowered() -> None:
    """An optimiser's default is no rate that anybody chose; the control was made with a rate."""
    made: list[tuple[int, Callable[[nn.Module], Any]]] = [
        (0, lambda model: torch.optim.Adam([{"params": list(model.parameters()), "lr": 5e-5}])),
        (1, lambda model: torch.optim.Adam([{"params": list(model.parameters()), "lr": 5e-5}], lr=2e-3)),
    ]
    for number, make in made:
        data, model, optimizer, _ = loop(make=make)
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            gu.unlearn(model, data, REQUEST, "continued_training", NODES, optimizer=optimizer, steps=1)
        assert sum("it was made with" in str(one.message) for one in found) == number


@pytest.mark.parametrize("given", [{"lr": 0.5}, {"weight_decay": 0.5}, {"training_steps": 7}])
def test_what_the_state_of_a_training_says_is_not_said_twice(given: dict[str, Any]) -> None:
    data, model, _, keeping = loop()
    with pytest.raises(InvalidInputError, match=f"beside 'training', which says .*{next(iter(given))}"):
        gu.unlearn(model, data, REQUEST, "auto", NODES, training=keeping.state(model), **given)


def test_a_model_of_frozen_parameters_is_told_so() -> None:
    data, model, optimizer, _ = loop()
    model.requires_grad_(False)
    for options in ({"optimizer": optimizer}, {"lr": 1e-2}):
        with pytest.raises(InvalidInputError, match=r"trainable parameters \(got none"):
            gu.unlearn(model, data, REQUEST, "auto", NODES, **options)


@pytest.mark.parametrize("method", ["auto", "continued_training"])
def test_a_training_of_no_steps_is_refused(method: str) -> None:
    data, model, _, _ = loop()
    with pytest.raises(InvalidInputError, match="'training_steps' to be an integer >= 1"):
        gu.unlearn(model, data, REQUEST, method, NODES, training_steps=0, lr=1e-2)


def test_too_few_steps_after_shrinking_are_warned_of() -> None:
    """The control shrinks less."""
    data, model, optimizer, _ = loop(steps=400)
    for factor, number in ((0.3, 1), (0.98, 0)):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            known = {"optimizer": optimizer, "shrink": factor, "budget": 0.05}
            gu.unlearn(model, data, REQUEST, "continued_training", NODES, **known)
        assert sum("after 'shrink' left the training's loss" in str(one.message) for one in found) == number


def test_a_look_at_the_gradient_draws_nothing_from_the_callers_generator() -> None:
    data, model, optimizer, _ = loop(model=gu.GCN(20, 8, 4, dropout=0.5))
    before, weights = torch.get_rng_state(), [p.detach().clone() for p in model.parameters()]
    for seed in (0, 1):
        assert gradient_by_memory(optimizer, model, data, gu.NodeClassification(), BatchOptions(), seed) is not None
    assert torch.equal(before, torch.get_rng_state())
    assert all(map(torch.equal, weights, model.parameters()))


def test_a_training_function_of_ones_own_is_asked_for_no_loss() -> None:
    """It retrains by itself; the control retrains by the recipe, whose loss is not the training's."""
    data, model, optimizer, _ = loop(steps=400, smoothing=0.3)
    asked: list[dict[str, Any]] = [
        {},
        {"train": lambda on, seed: gu.train(gu.GCN(20, 8, 4), on, NODES, epochs=2).model},
    ]
    for number, more in zip((1, 0), asked, strict=True):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            gu.unlearn(model, data, REQUEST, "auto", NODES, optimizer=optimizer, budget=1, **more)
        assert sum("trained by another loss" in str(one.message) for one in found) == number


def test_half_of_the_training_items_is_worth_a_retraining() -> None:
    """The control leaves one more."""
    data, model, optimizer, _ = loop()
    nodes = data.train_mask.nonzero().view(-1)
    assert len(nodes) % 2 == 0
    half = nodes[: len(nodes) // 2]
    for request, chosen in ((half, "retrain"), (half[:-1], "continued_training")):
        result = gu.unlearn(model, data, gu.ForgetNodes(request), "auto", NODES, optimizer=optimizer)
        assert result.notes["chosen"] == chosen
