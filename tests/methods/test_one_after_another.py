"""One request after another: each goes on from the state that the one before left."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

import gunlearn as gu
from gunlearn.errors import InvalidInputError
from gunlearn.methods import Auto
from gunlearn.methods.any_task.handed_on import Making
from gunlearn.training.second_moments import shorten_memory
from tests.methods.cases import same_weights
from tests.methods.forgetting import club
from tests.methods.test_continued_training import TASK, distance, net, steady, trained

FIRST, SECOND = gu.ForgetNodes([34]), gu.ForgetNodes([35])  # nobody's neighbours, and in no loss


def lone() -> Any:
    """The club with two nodes without edges and without labels for training: nothing changes when they go."""
    data = club()
    data.x = torch.cat([data.x, torch.ones(2, 20)])
    data.y = torch.cat([data.y, data.y[:2]])
    data = gu.node_split(data, 0.2, 0.2)
    data.train_mask[34:], data.val_mask[34:], data.test_mask[34:] = False, False, True
    return data


def test_two_requests_without_anything_to_forget_are_the_same_training_for_longer() -> None:
    data = lone()
    options: dict[str, Any] = {"epochs": 40, "lr": 1e-2, "weight_decay": 1e-3, "eval_every": 90}
    base = gu.train(net(), data, TASK, **options)
    longer = gu.train(net(), data, TASK, **options | {"epochs": 80})
    steps: dict[str, Any] = {"steps": 20, "scheduler": steady}
    first = gu.unlearn(base.model, data, FIRST, "continued_training", TASK, training=base, **steps)
    second = gu.unlearn(first.model, first.data, SECOND, "continued_training", TASK, training=first, **steps)
    for name, value in longer.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    assert (first.training.steps, second.training.steps, second.training.total) == (60, 80, 40)
    anew = gu.unlearn(
        first.model, first.data, SECOND, "continued_training", TASK, lr=1e-2, weight_decay=1e-3, **steps
    )  # control: without the state
    assert distance(anew.model, longer.model) > 20 * distance(second.model, longer.model)


def test_replay_hands_on_the_rate_of_the_end() -> None:
    """Half a cosine; the control is the checkpoint's, which is higher."""
    data = lone()
    base = trained(data, scheduler=lambda optimizer: CosineAnnealingLR(optimizer, 90))
    first = gu.unlearn(base.model, data, FIRST, "replay", TASK, training=base)
    (own,), (handed,) = base.training.optimizer["param_groups"], first.training.optimizer["param_groups"]
    moment = next(m for m in base.training.moments if m.step == first.notes["from_step"])
    assert handed["lr"] == own["lr"] < moment.optimizer["param_groups"][0]["lr"]


def test_replaying_one_request_after_another_is_replaying_both_bit_for_bit() -> None:
    data = lone()
    base = trained(data, scheduler=lambda optimizer: LambdaLR(optimizer, lambda step: 1 / (1 + step)))
    one, other = gu.ForgetNodes([3, 5]), gu.ForgetNodes([12, 20])
    first = gu.unlearn(base.model, data, one, "replay", TASK, training=base, budget=0.2)
    second = gu.unlearn(first.model, first.data, other, "replay", TASK, training=first, budget=0.2)
    both = gu.unlearn(base.model, data, one + other, "replay", TASK, training=base, budget=0.2)
    assert same_weights(second.model, both.model)
    assert not same_weights(first.model, both.model)  # control
    assert [moment.step for moment in first.training.moments] == [48]  # later ones know what was forgotten


@pytest.mark.parametrize("method", ["continued_training", "replay", "auto"])
def test_a_state_belongs_to_the_weights_it_was_left_with(method: str) -> None:
    data = lone()
    base = trained(data)
    first = gu.unlearn(base.model, data, gu.ForgetNodes([3, 5]), method, TASK, training=base, budget=0.2)
    for model, state in ((base.model, first), (first.model, base)):
        with pytest.raises(InvalidInputError, match="the training that ended in this model's weights"):
            gu.unlearn(model, first.data, SECOND, "continued_training", TASK, training=state)


def test_settings_are_those_of_the_training_again() -> None:
    data = lone()
    base = trained(data, epochs=200)
    first = gu.unlearn(base.model, data, gu.ForgetNodes(count=12), "continued_training", TASK, training=base, lr=1e-3)
    before, after = base.training.optimizer, first.training.optimizer
    assert after["param_groups"] == before["param_groups"]  # rate, memory
    assert any(not torch.equal(after["state"][k]["exp_avg"], before["state"][k]["exp_avg"]) for k in before["state"])


def test_whether_a_training_had_settled_is_handed_on() -> None:
    data = lone()
    base = trained(data, weight_decay=0.0)
    options: dict[str, Any] = {"training": base, "teacher_share": 0.5, "budget": 0.2}
    request = gu.ForgetNodes(count=2)
    first = gu.unlearn(base.model, data, request, "continued_training", TASK, **options)
    assert not first.training.moments
    chosen = [
        Auto(training=state).choose(gu.tasks.as_task(TASK), request.resolve(graph), state.model)
        for state, graph in ((base, data), (first, first.data))
    ]
    assert [one["teacher_share"] for _, one, _ in chosen] == [0.62, 0.62]
    assert chosen[0][2] == chosen[1][2]


def test_what_forgotten_items_went_into_is_not_saved(tmp_path: Path) -> None:
    data = lone()
    base = trained(data)
    base.save(tmp_path / "base")
    assert gu.Result.load(tmp_path / "base", net()).training is not None
    first = gu.unlearn(base.model, data, gu.ForgetNodes([3, 5]), "replay", TASK, training=base, budget=0.2)
    first.save(tmp_path / "base")  # over it
    assert sorted(path.name for path in (tmp_path / "base").iterdir()) == ["model.safetensors", "result.json"]
    loaded = gu.Result.load(tmp_path / "base", net())
    with pytest.raises(InvalidInputError, match=r"state of its training .*got one without"):
        gu.unlearn(loaded.model, first.data, SECOND, "replay", TASK, training=loaded)
    first.training.save(tmp_path / "own.pt")  # whoever keeps it
    again = gu.unlearn(loaded.model, first.data, SECOND, "replay", TASK, training=tmp_path / "own.pt", budget=0.2)
    kept = gu.unlearn(first.model, first.data, SECOND, "replay", TASK, training=first, budget=0.2)
    assert same_weights(again.model, kept.model)


def test_steps_taken_back_leave_the_state_as_it_was() -> None:
    data = lone()
    base = trained(data, epochs=300)
    options: dict[str, Any] = {"training": base, "lr": 3.0, "steps": 5}
    result = gu.unlearn(base.model, data, gu.ForgetNodes(count=3, seed=1), "continued_training", TASK, **options)
    assert result.unchanged
    assert (result.training.steps, len(result.training.moments)) == (300, 3)


class Table(nn.Module):
    """Embeddings of nodes before a GCN."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.gcn = nn.Embedding(36, 20), gu.GCN(20, 8, 4)

    def forward(self, x: Any, edge_index: Any) -> Any:
        return self.gcn(self.table.weight, edge_index)


@pytest.mark.parametrize("method", ["replay", "continued_training", "auto"])
def test_a_later_request_brings_no_row_back_that_an_earlier_one_reset(method: str) -> None:
    data = lone()
    base = gu.train(Table(), data, TASK, epochs=60, lr=1e-2, eval_every=60)
    own = base.model.table.weight.detach()[3]
    options: dict[str, Any] = {} if method == "auto" else {"budget": 0.2}
    first = gu.unlearn(base.model, data, gu.ForgetNodes([3]), method, TASK, training=base, **options)
    second = gu.unlearn(
        first.model,
        first.data,
        gu.ForgetNodes([8]),
        "continued_training" if method == "replay" else method,
        TASK,
        training=first,
        **options,
    )
    rows = [result.model.table.weight.detach()[3] for result in (first, second)]
    assert torch.equal(*rows)  # nothing that knew it moves it on
    assert torch.cosine_similarity(rows[1], own, dim=0) < 0.7
    if method == "replay":
        assert first.training.moments == ()
        with pytest.raises(InvalidInputError, match="Expected a checkpoint"):
            gu.unlearn(first.model, first.data, gu.ForgetNodes([8]), "replay", TASK, training=first, budget=0.2)


def test_an_optimiser_of_two_groups_goes_on_twice() -> None:
    data, models = lone(), []
    for steps in (40, 80):
        model = net()
        conv, rest = model.convs[0].parameters(), model.convs[1].parameters()
        optimizer = torch.optim.AdamW([{"params": list(rest), "lr": 3e-3}, {"params": list(conv)}], lr=1e-2)
        keeping = gu.KeepState(steps=40)
        for _ in range(steps):
            optimizer.zero_grad()
            out = model(data.x, data.edge_index)[data.train_mask]
            nn.functional.cross_entropy(out, data.y[data.train_mask]).backward()
            optimizer.step()
            keeping.step(model, optimizer)
        models.append((model, keeping.state(model)))
    (model, state), (longer, _) = models
    options: dict[str, Any] = {"steps": 20, "scheduler": steady}
    first = gu.unlearn(model, data, FIRST, "continued_training", TASK, training=state, **options)
    second = gu.unlearn(first.model, first.data, SECOND, "continued_training", TASK, training=first, **options)
    for one, other in zip(second.model.parameters(), longer.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert first.notes["passes"] == 4  # two looks, and two at the loss, which is not known to be the task's


class OwnSGD(torch.optim.SGD):
    """Goes up."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.add_(group["lr"] * parameter.grad)


def test_an_optimiser_of_another_class_is_not_taken_for_its_base() -> None:
    data, model = lone(), net()
    optimizer, keeping = OwnSGD(model.parameters(), lr=1e-3, momentum=0.9), gu.KeepState(steps=5)
    for _ in range(5):
        model(data.x, data.edge_index).logsumexp(-1).mean().backward()
        optimizer.step()
        keeping.step(model, optimizer)
    with pytest.raises(InvalidInputError, match=r"torch.optim \(got .*OwnSGD"):
        gu.unlearn(model, data, FIRST, "continued_training", TASK, training=keeping.state(model))
    options: dict[str, Any] = {"optimizer": optimizer, "training_steps": 100}
    first = gu.unlearn(model, data, FIRST, "continued_training", TASK, **options)
    assert first.training is None


def test_settings_of_a_run_are_undone_exactly() -> None:
    one = nn.Linear(3, 2).double()
    optimizer = torch.optim.Adam(one.parameters(), lr=0.1)
    for step in range(40):
        for parameter in one.parameters():
            parameter.grad = torch.full_like(parameter, float(step))
        optimizer.step()
    before = copy.deepcopy(optimizer.state_dict())
    making = Making(lambda parameters: optimizer, lambda made: shorten_memory(made, 30))
    making(list(one.parameters()))
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.95)
    after = making.state(one, None, 7, 40, {})
    torch.testing.assert_close(after.optimizer["state"], before["state"])
    assert after.optimizer["param_groups"] == before["param_groups"]
    assert (after.kind, after.names, after.steps) == ("Adam", ("weight", "bias"), 47)


@pytest.mark.parametrize("back", [0.2, 0.3])
def test_auto_goes_back_to_the_nearest_checkpoint_that_its_budget_allows(back: float) -> None:
    data = lone()
    base = trained(data, weight_decay=0.0, epochs=200)
    moments = tuple(replace(m, step=round(200 * (1 - back))) for m in base.training.moments[:1])
    state = replace(base.training, moments=(*moments, replace(moments[0], step=20)))
    request, task = gu.ForgetEdges(count=1).resolve(data), gu.tasks.as_task(TASK)
    name, options, _ = Auto(training=state).choose(task, request, base.model)
    assert (name, options["budget"]) == ("replay", pytest.approx(back))
    assert Auto(training=state, budget=back - 0.05).choose(task, request, base.model)[0] == "continued_training"


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("method", ["continued_training", "auto"])
def test_the_next_request_on_the_data_from_before_is_refused(copied, method) -> None:
    data = club()
    base = trained(data)
    first = gu.unlearn(base.model, data, gu.ForgetNodes([3, 5]), method, TASK, training=base)
    old = copy.copy(data) if copied else data
    with pytest.raises(InvalidInputError, match=r"hand in its own, gunlearn.unlearn.first.model, first.data"):
        gu.unlearn(first.model, old, gu.ForgetNodes([12]), method, TASK, training=first)
    assert gu.unlearn(first.model, first.data, gu.ForgetNodes([12]), method, TASK, training=first).num_forget == 1
