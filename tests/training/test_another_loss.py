"""A model that another loss trained is told apart, and the user is."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch_geometric.utils import degree

import gunlearn as gu
from gunlearn.methods import Problem
from gunlearn.tasks.sampling import BatchOptions
from gunlearn.training.another_loss import gradient_by_memory, warn_of_a_fall
from tests.methods.forgetting import club

TASK = "node_classification"
LOSSES: dict[str, Any] = {
    "its own": cross_entropy,
    "smoothed labels": lambda z, y: cross_entropy(z, y, label_smoothing=0.3),
    "class weights": lambda z, y: cross_entropy(z, y, weight=torch.tensor([0.05, 20.0, 1.0, 1.0])),
}


def own_loop(loss: Any, steps: int = 400) -> tuple[Any, Any, Any, gu.TrainingState]:
    data = gu.node_split(club(), 0.2, 0.2)
    torch.manual_seed(0)
    model = gu.GCN(20, 8, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-3)
    keeping = gu.KeepState(steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(data.x, data.edge_index)[data.train_mask], data.y[data.train_mask]).backward()
        optimizer.step()
        keeping.step(model, optimizer)
    return data, model, optimizer, keeping.state(model)


@pytest.mark.parametrize("method", ["continued_training", "replay", "auto"])
@pytest.mark.parametrize("name", LOSSES)
def test_another_loss_is_warned_of(name: str, method: str) -> None:
    data, model, _, state = own_loop(LOSSES[name])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = gu.unlearn(model, data, gu.ForgetNodes(count=2), method, TASK, training=state, budget=0.2)
    told = [str(one.message) for one in caught if "trained by another loss" in str(one.message)]
    assert len(told) == (0 if name == "its own" else 1)
    assert result.notes["price"] <= (0.205 if method == "replay" else 0.2)


def test_the_order_of_parameters_is_named_among_the_causes() -> None:
    """Two layers of one shape changed places in the optimiser; the control hands in the optimiser, which tells."""
    data = gu.node_split(club(), 0.2, 0.2)
    torch.manual_seed(0)
    model = gu.GCN(20, 20, 4, num_layers=3)
    first, second, last = model.convs
    parameters = [*second.parameters(), *first.parameters(), *last.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-2, weight_decay=1e-3)
    for _ in range(200):
        optimizer.zero_grad()
        cross_entropy(model(data.x, data.edge_index)[data.train_mask], data.y[data.train_mask]).backward()
        optimizer.step()
    for given, number in ((optimizer.state_dict(), 1), (optimizer, 0)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            gu.unlearn(model, data, gu.ForgetNodes(count=2), "continued_training", TASK, optimizer=given)
        told = [str(one.message) for one in caught if "trained by another loss" in str(one.message)]
        assert len(told) == number
        assert all("parameters in another order" in one for one in told)


def test_the_gradient_is_held_against_what_adam_remembers() -> None:
    data, model, optimizer, _ = own_loop(cross_entropy, 30)
    task, before = gu.tasks.as_task(TASK), copy.deepcopy(model.state_dict())
    loss = cross_entropy(model(data.x, data.edge_index)[data.train_mask], data.y[data.train_mask])
    penalised = loss + sum(0.5e-3 * p.square().sum() for p in model.parameters())
    gradients = torch.autograd.grad(penalised, list(model.parameters()))
    squares = [optimizer.state[p]["exp_avg_sq"] / (1 - 0.999**30) for p in model.parameters()]
    each = torch.cat([(g.square() / v)[v > 0].flatten() for g, v in zip(gradients, squares, strict=True)])
    given = (model, data, task, BatchOptions(), 0)
    assert gradient_by_memory(optimizer, *given) == pytest.approx(float(each.mean().sqrt()), rel=1e-4)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    assert gradient_by_memory(sgd, *given) is None
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)
    assert all(parameter.grad is None or parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_a_training_of_the_package_is_not_asked() -> None:
    data = gu.node_split(club(), 0.2, 0.2)
    torch.manual_seed(0)
    base = gu.train(gu.GCN(20, 8, 4), data, TASK, epochs=60, lr=1e-2, eval_every=60)
    result = gu.unlearn(
        base.model, data, gu.ForgetEdges(count=1), "continued_training", TASK, training=base, budget=0.2
    )
    assert result.notes["passes"] == 2


def test_an_input_that_is_always_zero_hides_no_other_loss() -> None:
    """Its weights have neither gradient nor memory: 0 over 0."""
    data, model, optimizer, _ = own_loop(LOSSES["its own"])
    data.x[:, 3] = 0
    model.convs[0].lin.weight.data[:, 3] = 0
    memory = optimizer.state[model.convs[0].lin.weight]["exp_avg_sq"]
    memory[:, 3] = 0
    found = gradient_by_memory(optimizer, model, data, gu.NodeClassification(), BatchOptions(), 0)
    memory[:, 3] = 1e30  # control: no gradient over a large memory counts, and lowers the mean
    counted = gradient_by_memory(optimizer, model, data, gu.NodeClassification(), BatchOptions(), 0)
    assert found > counted > 0


@pytest.mark.parametrize("kind", ["SGD", "RMSprop"])
@pytest.mark.parametrize(("smoothing", "said"), [(0.3, True), (0.0, False)])
def test_a_loss_that_falls_by_half_is_said(kind: str, smoothing: float, said: bool) -> None:
    """Where the optimiser has none of Adam's memory, nothing else tells of another loss; the control is the own one."""
    data = gu.node_split(club(), 0.2, 0.2)
    torch.manual_seed(0)
    model, index = gu.GCN(20, 16, 4), data.train_mask.nonzero().view(-1)
    few = index[degree(data.edge_index[0], 34)[index].argsort()[:2]]
    options = {"SGD": {"lr": 0.2, "momentum": 0.9}, "RMSprop": {"lr": 5e-3}}[kind]
    optimizer = getattr(torch.optim, kind)(model.parameters(), weight_decay=5e-4, **options)
    for _ in range(300):
        optimizer.zero_grad()
        logits = model(data.x, data.edge_index)[index]
        cross_entropy(logits, data.y[index], label_smoothing=smoothing).backward()
        optimizer.step()
    known = {"optimizer": optimizer, "training_steps": 300}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gu.unlearn(model, data, gu.ForgetNodes(few), "continued_training", TASK, **known)
    assert any("going on lowered it to" in str(one.message) for one in caught) == said


@pytest.mark.parametrize(("penalty", "said"), [(0.0, False), (5.0, True)])
def test_losses_that_are_compared_have_the_penalty_both(penalty: float, said: bool) -> None:
    """The loss with the penalty fell from 10 to 2.5. At the trained weights it is near 1.4 on all data, without it."""
    data = gu.node_split(club(), 0.2, 0.2)
    torch.manual_seed(0)
    model, task = gu.GCN(20, 16, 4), gu.tasks.as_task(TASK)
    problem = Problem(model, copy.deepcopy(model), gu.ForgetNodes(count=2).resolve(data), task)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_a_fall(10.0, 2.5, penalty, problem, BatchOptions())
    assert [" nats on all training data" in str(one.message) for one in caught] == [True] * said
