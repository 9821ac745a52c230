"""What accuracies MCU aims at, by hand; its model's statistics; what it draws and how it weighs tensors."""

from itertools import count
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import gunlearn as gu
from gunlearn.connectivity import PartLosses, mcu
from gunlearn.connectivity.accuracy_goal import AccuracyGoal
from gunlearn.connectivity.tensor_mask import tensor_importance
from tests.connectivity.cases import items, perceptron, trained

TASK = gu.ImageClassification()


def test_forgotten_items_should_be_as_wrong_as_unseen_ones_of_classes_that_stay() -> None:
    """Class 1 goes as a whole, of class 2 a few items: the goal is their share times the accuracy on class 2."""
    data = items(number=90)
    data.x += 1.5 * torch.randn(data.x.shape, generator=torch.Generator().manual_seed(1))  # some are wrong
    row = torch.arange(90)
    data.val_mask, data.train_mask = (row >= 45) & (row < 85), row < 45
    model = trained(perceptron(), data, steps=60)
    few = (data.train_mask & (data.y == 2)).nonzero().view(-1)[:4]
    mask = data.train_mask & (data.y == 1)
    mask[few] = True
    partition = gu.ForgetItems(mask=mask).resolve(data)
    goal = AccuracyGoal(SimpleNamespace(reference=model), PartLosses(TASK, partition, model))
    hit = model(data.x).argmax(1) == data.y
    unseen = [float(hit[data.val_mask & (data.y == k)].double().mean()) for k in (1, 2)]
    share = len(few) / int(mask.sum())
    assert goal.forget == pytest.approx(share * unseen[1])
    assert goal.retain == pytest.approx(float(hit[partition.retain_mask].double().mean()))
    either = float(hit[data.val_mask & (data.y > 0)].double().mean())
    for other in (unseen[1], share * either, share * unseen[0]):  # controls
        assert goal.forget != pytest.approx(other, abs=1e-3)


def test_a_point_between_the_ends_has_statistics_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    data = items(number=90)
    base, order = trained(perceptron(norm=True), data), count()
    monkeypatch.setattr(AccuracyGoal, "gap", lambda goal, retain, forget: next(order))  # the first point is the best
    options = {"epochs": 2, "low": 0.5, "points": 2, "pre_options": {"epochs": 2}}
    result = gu.unlearn(base, data, gu.ForgetItems(count=9), "mcu", TASK, **options)
    assert result.notes["t"] == 0.5
    hidden = result.model[0](data.x[result.partition.retain_mask])
    torch.testing.assert_close(result.model[1].running_mean, hidden.mean(0).detach(), rtol=1e-4, atol=1e-5)


def test_what_is_drawn_is_drawn_under_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Seen(PartLosses):
        def __init__(self, *given: object, seed: int = 0, **more: object) -> None:
            seen.append(seed)
            super().__init__(*given, seed=seed, **more)

    monkeypatch.setattr(mcu, "PartLosses", Seen)
    options = {"epochs": 1, "pre_options": {"epochs": 1}, "seed": 5}
    gu.unlearn(perceptron(), items(number=90), gu.ForgetItems(count=9), "mcu", TASK, **options)
    assert seen == [5]


def test_importance_is_that_of_the_model_at_rest() -> None:
    """With dropout a gradient would be drawn: a model in training mode has the importance of evaluation."""
    data = items()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 3))
    held = PartLosses(TASK, gu.ForgetItems(count=6).resolve(data), model)
    one, two = (tensor_importance(model.train(mode), TASK, *held.held["forget"]) for mode in (True, False))
    assert one == two
