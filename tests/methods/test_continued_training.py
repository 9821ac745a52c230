"""Continued training against the training itself, replay against what it repeats, and their controls."""

import copy
import math
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR

import gunlearn as gu
from gunlearn.errors import InvalidInputError
from gunlearn.methods.any_task.shrunk import shrink
from gunlearn.methods.any_task.training_budget import fall
from tests.methods.cases import same_weights
from tests.methods.forgetting import club
from tests.training.callbacks import On

TASK = "node_classification"


def lone() -> Any:
    """The club with a node without edges and without a label for training: nothing changes when it goes."""
    data = club()
    data.x = torch.cat([data.x, torch.ones(1, 20)])
    data.y = torch.cat([data.y, data.y[:1]])
    data = gu.node_split(data, 0.2, 0.2)
    data.train_mask[34], data.val_mask[34], data.test_mask[34] = False, False, True
    return data


NOBODY = gu.ForgetNodes([34])


def net(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return gu.GCN(20, 8, 4, dropout=dropout)


def trained(data: Any, epochs: int = 60, dropout: float = 0.0, **more: Any) -> gu.Result:
    return gu.train(
        net(dropout), data, TASK, **{"epochs": epochs, "lr": 1e-2, "weight_decay": 1e-3, "eval_every": epochs} | more
    )


def steady(optimizer: Any) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: 1.0)


@pytest.mark.parametrize("form", ["result", "state", "optimizer", "state_dict"])
def test_without_anything_to_forget_it_is_the_same_training_for_longer(form: str) -> None:
    data = lone()
    made: list[Any] = []

    def adam(parameters: Any) -> Any:
        made.append(torch.optim.Adam(parameters, lr=1e-2, weight_decay=1e-3, fused=True))
        return made[-1]

    base = gu.train(net(), data, TASK, epochs=40, eval_every=40, optimizer=adam)
    longer = gu.train(net(), data, TASK, epochs=60, eval_every=60, optimizer=adam)
    options = {
        "result": {"training": base},
        "state": {"training": base.training},
        "optimizer": {"optimizer": made[0]},
        "state_dict": {"optimizer": made[0].state_dict()},
    }[form]
    result = gu.unlearn(base.model, data, NOBODY, "continued_training", TASK, steps=20, scheduler=steady, **options)
    for name, value in longer.model.state_dict().items():
        torch.testing.assert_close(result.model.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    anew = gu.unlearn(base.model, data, NOBODY, "finetune", TASK, steps=20, lr=1e-2, weight_decay=1e-3)  # control
    assert distance(anew.model, longer.model) > 20 * distance(result.model, longer.model)


@pytest.mark.parametrize("method", ["continued_training", "auto"])
def test_steps_that_an_optimiser_counts_otherwise_are_warned_of(method: str) -> None:
    """A bare state_dict may be another model's; of an optimiser, prices are shares of the steps that were named."""
    data, optimizers = lone(), []

    def adam(parameters: Any) -> Any:
        optimizers.append(torch.optim.Adam(parameters, lr=1e-2, weight_decay=1e-3))
        return optimizers[-1]

    base = gu.train(net(), data, TASK, epochs=40, eval_every=40, optimizer=adam)
    state = optimizers[0].state_dict()
    cases = ((400, state, "is it"), (40, state, ""), (None, state, ""), (400, optimizers[0], "budgets and prices are"))
    cases += ((40, optimizers[0], ""),)
    for steps, source, said in cases:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            gu.unlearn(base.model, data, NOBODY, method, TASK, optimizer=source, training_steps=steps)
        texts = [str(one.message) for one in seen if "counts 40 steps" in str(one.message)]
        assert len(texts) == bool(said)
        assert all(f"counts 40 steps, where training_steps=400 was named: {said}" in text for text in texts)


def distance(one: nn.Module, other: nn.Module) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_replay_without_anything_to_forget_gives_the_original_bit_for_bit() -> None:
    """With dropout, too, which is drawn as in the training."""
    data = lone()
    for more in (
        {},
        {"scheduler": lambda optimizer: LambdaLR(optimizer, lambda step: 1 / (1 + step))},
        {"dropout": 0.5},
    ):
        base = trained(data, **more)
        result = gu.unlearn(base.model, data, NOBODY, "replay", TASK, training=base, budget=0.2)
        assert same_weights(result.model, base.model)
        assert result.notes["from_step"] == 48
        other = gu.unlearn(base.model, data, gu.ForgetNodes(count=3), "replay", TASK, training=base, budget=0.2)
        assert not same_weights(other.model, base.model)  # control


def test_replay_is_the_training_s_own_steps_on_the_retained_data() -> None:
    data, request = lone(), gu.ForgetNodes(count=3, seed=1)
    base = trained(data)
    result = gu.unlearn(base.model, data, request, "replay", TASK, training=base, budget=0.1)
    moment = base.training.moments[1]
    kept = request.resolve(data).retain_data
    model = copy.deepcopy(base.model)
    model.load_state_dict(moment.weights)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-3)
    optimizer.load_state_dict(moment.optimizer)
    index = kept.train_mask.nonzero().view(-1)
    for _ in range(60 - moment.step):
        optimizer.zero_grad()
        cross_entropy(model(kept.x, kept.edge_index)[index], kept.y[index]).backward()
        optimizer.step()
    assert result.epochs == 60 - moment.step == 6
    for name, value in model.state_dict().items():
        torch.testing.assert_close(result.model.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_it_reads_nothing_that_is_forgotten() -> None:
    data, request = lone(), gu.ForgetNodes(count=3, seed=1)
    base = trained(data)
    other = data.clone()
    gone = request.resolve(data).forget_nodes
    other.y[gone] = (other.y[gone] + 1) % 4
    for method, options in (
        ("continued_training", {"training": base}),
        ("replay", {"training": base}),
        ("continued_training", {"lr": 1e-2, "weight_decay": 1e-3, "steps": 12}),
    ):
        one, two = (
            gu.unlearn(base.model, d, gu.ForgetNodes(gone), method, TASK, **options).model for d in (data, other)
        )
        assert same_weights(one, two)
        assert not same_weights(one, base.model)


def test_the_rate_is_constant_and_falls_in_the_last_quarter() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule, seen = fall(8)(optimizer), []
    for _ in range(8):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert seen == [2.0] * 7 + [1.0]
    raised = [fall(8, 0.5)(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)).lr_lambdas[0](k) for k in range(8)]
    assert raised == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 0.5]


def test_what_is_forgotten_sets_the_price(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gunlearn.methods.any_task.still_moving._RATIO", math.inf)
    data = lone()
    base = trained(data, epochs=200)
    for request, share in (
        (NOBODY, 0.05),
        (gu.ForgetNodes(count=3), 0.125),  # few, but they touch more than a tenth of the nodes
        (gu.ForgetNodes(count=11), 0.125),
        (gu.ForgetEdges(count=10), 0.05),
        (gu.ForgetEdges(count=11), 0.2),
    ):
        result = gu.unlearn(base.model, data, request, "continued_training", TASK, training=base)
        assert (result.epochs + result.notes["passes"], result.notes["price"]) == (int(200 * share), share)
        replayed = gu.unlearn(base.model, data, request, "replay", TASK, training=base)
        assert replayed.notes["price"] <= share
    result = gu.unlearn(base.model, data, NOBODY, "continued_training", TASK, training=base, budget=0.5)
    assert (result.epochs, result.notes["passes"]) == (98, 2)


def test_a_rate_that_a_scheduler_lowered_is_raised_to_a_tenth_of_its_highest() -> None:
    data = lone()
    seen: list[float] = []
    watch = On(step_begin=lambda optimizer, **_: seen.append(optimizer.param_groups[0]["lr"]))
    falls = {"scheduler": lambda optimizer: LambdaLR(optimizer, lambda step: 0.5**step)}
    for more, lr, wanted in ((falls, None, 1e-3), ({}, None, 1e-2), (falls, 3e-3, 3e-3)):
        base = trained(data, 40, **more)
        options = {"training": base, "steps": 8, "lr": lr, "callbacks": [watch]}
        first = gu.unlearn(base.model, data, NOBODY, "continued_training", TASK, **options)
        assert seen.pop(0) == pytest.approx(wanted)
        assert first.training.optimizer["param_groups"] == base.training.optimizer["param_groups"]
        seen.clear()


def test_without_a_state_estimates_count_as_passes() -> None:
    data = lone()
    base = trained(data, epochs=200)
    result = gu.unlearn(base.model, data, NOBODY, "continued_training", TASK, training_steps=200, lr=1e-2)
    assert result.notes["start"] == "estimated second moments"
    assert (result.epochs, result.notes["passes"], result.notes["price"]) == (2, 8, 0.05)
    raised = gu.unlearn(base.model, data, NOBODY, "continued_training", TASK, steps=12, optimizer="sgd", lr=1e-2)
    assert raised.notes["start"] == "a new optimiser, its rate raised from 0"
    assert raised.epochs == 12


def test_a_trained_model_is_not_thrown_away_by_an_optimiser_without_a_state() -> None:
    data = lone()
    base = trained(data, epochs=300)
    start = base.model(data.x, data.edge_index).softmax(-1)

    def moved(method: str, **options: Any) -> float:
        far: list[float] = []

        class Watch(gu.Callback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                far.append(float((kwargs["model"](data.x, data.edge_index).softmax(-1) - start).abs().mean()))

        gu.unlearn(base.model, data, NOBODY, method, TASK, lr=1e-2, steps=20, callbacks=[Watch()], **options)
        return max(far)

    new = moved("finetune", weight_decay=1e-3)  # control: a new Adam
    assert moved("continued_training", weight_decay=1e-3) < new / 3
    assert moved("continued_training") < new / 3  # the penalty is estimated


def test_shrinking_scales_trained_matrices_first() -> None:
    data = lone()
    base = trained(data)
    result = gu.unlearn(base.model, data, NOBODY, "continued_training", TASK, epochs=0, shrink=0.25, training=base)
    for name, value in base.model.state_dict().items():
        torch.testing.assert_close(result.model.state_dict()[name], value / 4 if value.dim() > 1 else value)


def test_shrinking_leaves_gains_biases_and_frozen_parameters() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2), nn.Linear(2, 2))
    model[2].requires_grad_(False)
    wanted = {**copy.deepcopy(model.state_dict()), "0.weight": model[0].weight.detach() / 2}
    shrink(model, 0.5)
    torch.testing.assert_close(dict(model.state_dict()), wanted)
    gains = nn.LayerNorm(4)
    shrink(gains, 0.5)  # nothing else to shrink
    assert bool((gains.weight == 0.5).all())


@pytest.mark.parametrize(
    ("method", "options", "match"),
    [
        ("continued_training", {"budget": 1e-4}, "budget of at least one step"),
        ("replay", {"budget": 0.01}, "checkpoint at most 1.0% .*got 20.0%, 10.0%, 5.0%"),
    ],
)
def test_a_budget_of_nothing(method: str, options: dict[str, Any], match: str) -> None:
    data = lone()
    base = trained(data)
    with pytest.raises(InvalidInputError, match=match):
        gu.unlearn(base.model, data, NOBODY, method, TASK, training=base, **options)


@pytest.mark.parametrize("method", ["continued_training", "auto"])
def test_another_models_optimiser_is_refused_before_its_few_steps(method: str) -> None:
    """Control: the model's own optimiser after one step, whose budget is too small."""
    data = lone()
    model, other = trained(data).model, nn.Linear(3, 2)
    for net, match in ((other, "of this model's parameters"), (model, "budget of at least one step")):
        optimizer = torch.optim.Adam(net.parameters())
        for parameter in net.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        with pytest.raises(InvalidInputError, match=match):
            gu.unlearn(model, data, NOBODY, method, TASK, optimizer=optimizer)


def test_what_is_missing_is_said() -> None:
    data = lone()
    base = trained(data)
    for options, match in (({"budget": 0.1}, "'training' or 'training_steps' beside 'budget'"),):
        with pytest.raises(InvalidInputError, match=match):
            gu.unlearn(base.model, data, NOBODY, "continued_training", TASK, **options)
    with pytest.raises(InvalidInputError, match="Expected 'training'"):
        gu.unlearn(base.model, data, NOBODY, "replay", TASK)
    with pytest.raises(InvalidInputError, match="got both"):
        gu.unlearn(
            base.model, data, NOBODY, "continued_training", TASK, training=base, optimizer=base.training.optimizer
        )


def test_steps_that_raise_the_training_s_loss_are_taken_back() -> None:
    data = lone()
    base = trained(data, epochs=300)
    request = gu.ForgetNodes(count=3, seed=1)
    result = gu.unlearn(base.model, data, request, "continued_training", TASK, training=base, lr=3.0, steps=5)
    assert same_weights(result.model, base.model)
    assert "raised the training's loss" in result.notes["why"]
    assert result.notes["training_loss"] > result.notes["training_loss_before"]
    kept = request.resolve(data).retain_data
    index = kept.train_mask.nonzero().view(-1)
    loss = cross_entropy(base.model(kept.x, kept.edge_index)[index], kept.y[index])
    loss = loss + 0.5e-3 * sum(p.square().sum() for p in base.model.parameters())
    assert result.notes["training_loss_before"] == pytest.approx(float(loss), rel=1e-4)
    good = gu.unlearn(base.model, data, request, "continued_training", TASK, training=base, steps=5)  # control
    assert not same_weights(good.model, base.model)
    assert good.notes["training_loss"] < good.notes["training_loss_before"]


def test_the_estimated_weight_decay_is_that_of_what_learns() -> None:
    data, seen = lone(), []
    model = net()
    model.convs[0].bias.requires_grad_(False)
    model.convs[0].bias.data.fill_(3.0)
    base = gu.train(model, data, TASK, epochs=800, lr=1e-2, weight_decay=2e-2, eval_every=800)

    class Watch(gu.Callback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append(kwargs["optimizer"].param_groups[0]["weight_decay"])

    options = {"training": "none", "lr": 1e-2, "steps": 2}
    gu.unlearn(base.model, data, NOBODY, "continued_training", TASK, callbacks=[Watch()], **options)
    assert seen[0] == pytest.approx(2e-2, rel=0.15)


@pytest.mark.parametrize("total", [20, 40, 60, 100, 140, 200])
def test_no_budget_is_exceeded_on_short_trainings(total: int) -> None:
    data = lone()
    model = trained(data, epochs=20).model
    result = gu.unlearn(model, data, NOBODY, "continued_training", TASK, training_steps=total, lr=1e-3)
    assert result.epochs >= 1
    assert result.epochs + result.notes["passes"] <= total // 20


def test_items_are_read_as_the_training_read_them_or_the_request_is_refused() -> None:
    data = club()
    data = gu.node_split(data, 0.2, 0.2)
    base = trained(data, batch_size=8)
    for asked in (4, 8, None):  # control: the training's own size, or none, goes on
        options = {"steps": 2} if asked is None else {"steps": 2, "batch_size": asked}
        if asked == 4:
            with pytest.raises(InvalidInputError, match=r"Expected batch_size=8, as the 'training' read .*got 4"):
                gu.unlearn(base.model, data, gu.ForgetNodes([3]), "continued_training", TASK, training=base, **options)
        else:
            gu.unlearn(base.model, data, gu.ForgetNodes([3]), "continued_training", TASK, training=base, **options)
