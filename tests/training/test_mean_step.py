"""How a model moved when its training ended, by Adam's memory. The oracle: checkpoints of the same training."""

import copy
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import gunlearn as gu
from gunlearn.training.mean_step import growth_by_memory, mean_steps, step_back
from gunlearn.training.settled import GROWING, growth_rate
from tests.methods.forgetting import club

NODES, STEPS = "node_classification", 200


def own_loop(
    make: Any, steps: int = STEPS, dropout: float = 0.0
) -> tuple[Any, nn.Module, Any, gu.TrainingState, list[dict[str, Any]]]:
    """Return data, a trained model, its optimiser, the state of its training and the weights after each step."""
    data = gu.node_split(club(), 0.2, 0.2)
    torch.manual_seed(0)
    model = gu.GCN(20, 8, 4, dropout=dropout)
    optimizer, keeping, past = make(model.parameters()), gu.KeepState(steps=steps), []
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(data.x, data.edge_index)[data.train_mask], data.y[data.train_mask]).backward()
        optimizer.step()
        keeping.step(model, optimizer)
        past.append({name: value.clone() for name, value in model.state_dict().items()})
    return data, model, optimizer, keeping.state(model), past


UNSETTLED = {
    "Adam": partial(torch.optim.Adam, lr=2e-3),
    "with decay": partial(torch.optim.Adam, lr=2e-3, weight_decay=5e-4),
    "AdamW": partial(torch.optim.AdamW, lr=3e-3, weight_decay=0.5),
    "amsgrad": partial(torch.optim.Adam, lr=2e-3, amsgrad=True),
}


def apart(left: dict[str, Any], right: dict[str, Any]) -> float:
    return float(sum((left[name] - right[name]).double().square().sum() for name in left)) ** 0.5


@pytest.mark.parametrize("name", UNSETTLED)
def test_it_says_what_a_checkpoint_says(name: str) -> None:
    """Within a third of the growth over the last fifth, where gradients are the same in each pass."""
    _, model, optimizer, state, _ = own_loop(UNSETTLED[name])
    measured = growth_rate(state, model)
    assert measured is not None
    assert measured > GROWING
    for source in (optimizer, optimizer.state_dict(), state):
        assert growth_by_memory(source, model, STEPS) == pytest.approx(measured, rel=1 / 3)
    assert growth_by_memory(optimizer, model, None) is None


@pytest.mark.parametrize("name", UNSETTLED)
def test_a_few_steps_back_lead_to_where_the_training_was(name: str) -> None:
    """A tenth of the steps; the control stays where it is."""
    _, model, optimizer, _, past = own_loop(UNSETTLED[name])
    back = STEPS // 10
    now = {key: value.clone() for key, value in model.state_dict().items()}
    step_back(optimizer, back)
    then = past[-1 - back]
    assert apart(model.state_dict(), then) < 0.25 * apart(now, then)


def test_noise_says_nothing() -> None:
    """Steps of gradients that are drawn anew stand at right angles to the weights; the control's do not."""
    torch.manual_seed(0)
    model = nn.Linear(300, 100)
    for drift, known in ((0.0, False), (0.5, True)):
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
        for _ in range(30):
            for p in model.parameters():
                p.grad = torch.randn_like(p) - drift * p.detach() / p.detach().square().mean().sqrt()
            optimizer.step()
        assert (growth_by_memory(optimizer, model, 30) is not None) is known


def test_an_optimiser_is_read_where_it_is() -> None:
    """Nothing is copied or changed, and one that never stepped remembers nothing."""
    _, model, optimizer, _, _ = own_loop(UNSETTLED["Adam"], 40)
    before = copy.deepcopy(optimizer.state_dict())
    assert growth_by_memory(optimizer, model, 40) == growth_by_memory(optimizer.state_dict(), model, 40)
    after = optimizer.state_dict()
    assert before["param_groups"] == after["param_groups"]
    for index, state in before["state"].items():
        assert all(torch.equal(value, after["state"][index][name]) for name, value in state.items())
    assert growth_by_memory(torch.optim.Adam(model.parameters()), model, 40) is None


def test_other_classes_remember_no_such_step() -> None:
    _, model, optimizer, _, _ = own_loop(partial(torch.optim.SGD, lr=0.1, momentum=0.9), 20)
    assert list(mean_steps(optimizer)) == []
    assert growth_by_memory(optimizer, model, 20) is None


def drift(model: nn.Module, result: gu.Result) -> float:
    """Return the logarithm of how much longer the weights are after a request."""
    sizes = [sum(float(p.detach().double().square().sum()) for p in net.parameters()) for net in (model, result.model)]
    return float(torch.tensor(sizes[1] / sizes[0]).log())


@pytest.mark.parametrize("form", ["optimizer", "state_dict"])
def test_an_unsettled_training_is_made_no_longer(form: str) -> None:
    """Weights stay as long as they were. The controls, with as many steps or with `shrink`, grow on or shrink."""
    data, model, optimizer, _, _ = own_loop(UNSETTLED["Adam"])
    source = optimizer if form == "optimizer" else optimizer.state_dict()
    run = partial(gu.unlearn, model, data, gu.ForgetNodes(count=12), "continued_training", NODES, optimizer=source)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    back = run()
    assert back.notes["start"] == f"the state of the training, and {back.epochs} of its mean steps back"
    on = run(steps=back.epochs)
    assert on.notes["start"] == "the state of the training"
    assert abs(drift(model, back)) < 0.2 * drift(model, on)
    assert run(shrink=0.9).notes["start"] == "the state of the training"
    assert all(map(torch.equal, before.values(), model.state_dict().values()))


def test_a_training_with_checkpoints_goes_on_where_asked_to() -> None:
    """`replay` goes back to one of them; the control is the state without."""
    data, model, _, state, _ = own_loop(UNSETTLED["Adam"])
    run = partial(gu.unlearn, model, data, gu.ForgetNodes(count=2), "continued_training", NODES)
    assert "back" not in run(training=state).notes["start"]
    assert "mean steps back" in run(training=replace(state, moments=())).notes["start"]


def test_auto_teaches_and_else_goes_back_by_the_optimiser_alone() -> None:
    """A fifth of the steps takes a teacher, as with the state of the training; less of them goes back."""
    data, model, optimizer, state, _ = own_loop(partial(torch.optim.Adam, lr=1e-2), 400)
    run = partial(gu.unlearn, model, data, gu.ForgetNodes(count=2), "auto", NODES)
    kept, alone = run(training=state), run(optimizer=optimizer)
    assert "the training had not settled, so what it learned by heart stays without a teacher" in kept.notes["why"]
    assert "the training had not settled, so what it learned by heart stays without a teacher" in alone.notes["why"]
    assert alone.notes["options"].get("teacher_share") == kept.notes["options"].get("teacher_share")
    less = run(optimizer=optimizer, budget=0.1)
    assert "had not settled, and it left no checkpoint to go back to" in less.notes["why"]
    assert "mean steps back" in less.notes["start"]
    assert less.notes["price"] <= 0.1
