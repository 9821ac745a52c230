"""A model that another loss trained is told apart, and the user is."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, logsigmoid
from torch_geometric.utils import degree

import gunlearn as gu
from gunlearn.losses import Prediction
from gunlearn.methods import Problem
from gunlearn.tasks.sampling import BatchOptions
from gunlearn.training.another_loss import gradient_by_memory, warn_of_a_fall
from tests.conftest import REPOSITORY
from tests.methods.forgetting import club
from tests.test_readme import executed

TASK = "node_classification"
LOSSES: dict[str, Any] = {
    "its own": cross_entropy,
    "smoothed labels": lambda z, y: cross_entropy(z, y, label_smoothing=0.3),
    "slightly smoothed labels": lambda z, y: cross_entropy(z, y, label_smoothing=0.05),
    "class weights": lambda z, y: cross_entropy(z, y, weight=torch.tensor([0.05, 20.0, 1.0, 1.0])),
}


def own_loop(
    loss: Any, steps: int = 400, dropout: float = 0.0, dtype: torch.dtype = torch.float32
) -> tuple[Any, Any, Any, gu.TrainingState]:
    data = gu.node_split(club(), 0.2, 0.2)
    data.x = data.x.to(dtype)
    torch.manual_seed(0)
    model = gu.GCN(20, 8, 4, dropout=dropout).to(dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-3)
    keeping = gu.KeepState(steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(data.x, data.edge_index)[data.train_mask], data.y[data.train_mask]).backward()
        optimizer.step()
        keeping.step(model, optimizer)
    return data, model, optimizer, keeping.state(model)


@pytest.mark.parametrize("method", ["continued_training", "replay", "auto"])
@pytest.mark.parametrize(
    ("name", "dropout"), [*((name, 0.0) for name in LOSSES), ("its own", 0.5), ("smoothed labels", 0.5)]
)
def test_another_loss_is_warned_of(name: str, dropout: float, method: str) -> None:
    data, model, _, state = own_loop(LOSSES[name], dropout=dropout)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = gu.unlearn(model, data, gu.ForgetNodes(count=2), method, TASK, training=state, budget=0.2)
    told = [str(one.message) for one in caught if "trained by another loss" in str(one.message)]
    assert len(told) == (0 if name == "its own" else 1)
    assert result.notes["price"] <= (0.21 if method == "replay" else 0.2)


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
    assert gradient_by_memory(optimizer, *given).size == pytest.approx(float(each.mean().sqrt()), rel=1e-4)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    assert gradient_by_memory(sgd, *given) is None
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)
    assert all(parameter.grad is None or parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_what_pulls_on_is_the_gradient_of_this_step_and_of_the_next() -> None:
    """The same by a step of torch's Adam on a copy; a gradient that swings to and fro would be negative: nothing."""
    data, model, optimizer, _ = own_loop(LOSSES["smoothed labels"], 30, dtype=torch.float64)
    index, ahead = data.train_mask, copy.deepcopy(model)
    further = torch.optim.Adam(ahead.parameters(), lr=1e-2, weight_decay=1e-3)
    further.load_state_dict(copy.deepcopy(optimizer.state_dict()))

    def gradients(of: Any) -> list[torch.Tensor]:
        loss = cross_entropy(of(data.x, data.edge_index)[index], data.y[index])
        return list(
            torch.autograd.grad(loss + sum(0.5e-3 * p.square().sum() for p in of.parameters()), of.parameters())
        )

    now = gradients(model)
    cross_entropy(ahead(data.x, data.edge_index)[index], data.y[index]).backward()
    further.step()
    pulled, remembered = 0.0, 0.0
    for p, g, later in zip(model.parameters(), now, gradients(ahead), strict=True):
        mean = optimizer.state[p]["exp_avg"] / (1 - 0.9**30)
        square = optimizer.state[p]["exp_avg_sq"] / (1 - 0.999**30)
        known = square > 0
        pulled += float((g * (later - mean) / square)[known].sum())
        remembered += float((mean.square() / square)[known].sum())
    found = gradient_by_memory(optimizer, model, data, gu.tasks.as_task(TASK), BatchOptions(), 0)
    assert found.steady / found.mean == pytest.approx((pulled / remembered) ** 0.5, rel=1e-6)


@pytest.mark.parametrize("handed", ["training", "optimizer"])
@pytest.mark.parametrize("name", ["its own", "smoothed labels"])
def test_a_retraining_by_the_recipe_asks_for_the_loss_too(name: str, handed: str) -> None:
    data, model, optimizer, state = own_loop(LOSSES[name], 100)
    given = {"training": state, "optimizer": optimizer}[handed]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = gu.unlearn(model, data, gu.ForgetNodes(count=2), "auto", TASK, budget=1, **{handed: given})
    assert result.notes["chosen"] == "retrain"
    assert sum("trained by another loss" in str(one.message) for one in caught) == (name != "its own")


def test_the_task_of_the_docs_has_the_loss_of_its_training() -> None:
    """Under it a training with smoothed labels goes on without a word; control: the task with plain ones."""
    names = executed(REPOSITORY / "docs" / "models.md", "class SmoothedNodes")
    assert gu.evaluate(names["result"]).rows[0]["forget_acc"] is not None
    data, model, _, state = own_loop(lambda z, y: cross_entropy(z, y, label_smoothing=0.2))
    for task, number in ((names["SmoothedNodes"](), 0), (TASK, 1)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            gu.unlearn(model, data, gu.ForgetNodes(count=2), "auto", task, training=state)
        assert sum("trained by another loss" in str(one.message) for one in caught) == number


def test_the_loss_of_two_items_of_the_docs_is_that_of_its_training() -> None:
    """By hand; as the method it trains a model that has learned nothing yet."""
    names = executed(REPOSITORY / "docs" / "models.md", "class BPR")
    assert (names["result"].num_forget, names["again"].num_forget) == (3, 3)
    logits = {part: torch.randn(7, generator=torch.Generator().manual_seed(place)) for place, part in enumerate("ab")}
    parts = zip(("retain_edges", "non_edges"), logits.values(), strict=True)
    found = names["BPR"]()({part: Prediction(log_prob=logsigmoid(given), logits=given) for part, given in parts})
    torch.testing.assert_close(found, -(logits["a"] - logits["b"]).sigmoid().log().mean())
    torch.manual_seed(0)
    model = gu.GCN(names["data"].num_features, 16, 16)
    history = gu.unlearn(model, names["data"], names["request"], names["BPR"](), epochs=60, lr=1e-2).history
    assert history[-1]["loss"] < history[0]["loss"]


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
    assert found.size > counted.size > 0


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
