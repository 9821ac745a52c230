"""One request after another: each goes on from the state that the one before left."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

import gunlearn as gu
from gunlearn.errors import InvalidInputError
from gunlearn.methods import Auto
from gunlearn.training.second_moments import remember, shorten_memory
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
    unbiased = [
        [state["exp_avg_sq"] / (1 - 0.999 ** float(state["step"])) for state in one["state"].values()]
        for one in (before, after)
    ]
    for one, other in zip(*unbiased, strict=True):
        assert float(other.mean()) < 100 * float(one.mean())


def test_a_memory_that_was_shortened_comes_back() -> None:
    one = torch.nn.Parameter(torch.zeros(3, dtype=torch.double))
    optimizer = torch.optim.Adam([one], lr=0.1)
    for step in range(40):
        one.grad = torch.full_like(one, float(step))
        optimizer.step()
    before = copy.deepcopy(optimizer.state[one])
    shorten_memory(optimizer, 30)
    assert not torch.allclose(optimizer.state[one]["exp_avg_sq"], before["exp_avg_sq"])
    remember(optimizer, optimizer.param_groups[0], 0.999)
    torch.testing.assert_close(optimizer.state[one], before)


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
