"""Losses, loop and methods are not bound to graphs: the same classes unlearn images from a plain classifier."""

import functools
import math
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch_geometric.data import Data

import gunlearn as gu
from tests.methods.cases import same_weights, seeded
from tests.training.callbacks import On

TASK = gu.ImageClassification()


@functools.cache
def problem() -> tuple[nn.Module, Data]:
    """A perceptron trained on scikit-learn's digits: 1000 rows to learn, 400 to choose an epoch, the rest to test."""
    bunch = load_digits()
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    data = Data(x=torch.tensor(bunch.data / 16.0, dtype=torch.float32)[order], y=torch.tensor(bunch.target)[order])
    row = torch.arange(1797)
    data.train_mask, data.val_mask, data.test_mask = row < 1000, (row >= 1000) & (row < 1400), row >= 1400
    model = seeded(lambda: nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10)))
    return gu.train(model, data, task=TASK, epochs=120, lr=1e-2, eval_every=20).model, data


def request() -> gu.ForgetItems:
    """Forty training images of threes: a class the model must not lose as a whole."""
    _, data = problem()
    return gu.ForgetItems(((data.y == 3) & data.train_mask).nonzero().view(-1)[:40])


def figures(model: nn.Module, data: Data, mask: Tensor) -> tuple[float, float]:
    """Accuracy and mean log-likelihood of the true class, by hand."""
    with torch.no_grad():
        logits = model(data.x[mask]).double()
    likelihood = logits[torch.arange(len(logits)), data.y[mask]] - logits.logsumexp(1)
    return float((logits.argmax(1) == data.y[mask]).double().mean()), float(likelihood.mean())


def test_the_base_model_is_trained() -> None:
    assert figures(*problem(), problem()[1].test_mask)[0] > 0.93


def test_a_retain_term_pays_at_equal_forgetting() -> None:
    model, data = problem()
    partition = request().resolve(data)
    retained = {}

    def stop(model: nn.Module, control: Any, **_: Any) -> None:
        control.should_training_stop = figures(model, data, partition.forget_mask)[1] <= -10.0

    for method, options in (
        ("gradient_ascent", {}),
        ("graddiff", {"retain_weight": 5.0}),
        ("npo", {"beta": 0.2, "retain_weight": 5.0}),
    ):
        more = {"epochs": 400, "lr": 2e-3, "callbacks": [On(epoch_end=stop)], **options}
        result = gu.unlearn(model, data, request(), method, TASK, **more)
        retained[method] = figures(result.model, data, partition.retain_mask)[1]
        assert figures(result.model, data, partition.forget_mask)[1] <= -10.0
        assert result.epochs < 400
    assert min(retained["graddiff"], retained["npo"]) > retained["gradient_ascent"] + 0.05


def test_the_reference_of_items_is_the_original() -> None:
    result = gu.unlearn(*problem(), request(), "npo", TASK, beta=2.0, epochs=1)
    assert result.history[0]["npo(forget)"] == pytest.approx(math.log(2), rel=1e-5)  # 2 ln 2 / beta


def test_retraining_without_the_images() -> None:
    """A model retrained by the method equals, bit by bit, one whose forgotten rows hold nonsense."""
    model, data = problem()
    options = {"epochs": 10, "lr": 1e-2, "eval_every": 5, "seed": 2}
    result = gu.unlearn(model, data, request(), "retrain", TASK, **options)
    spoiled = data.clone()
    spoiled.x[result.partition.forget_mask] = 99.0
    again = gu.unlearn(model, spoiled, request(), "retrain", TASK, **options)
    assert same_weights(result.model, again.model)
    # Control: a nonsense retained row would be noticed.
    spoiled.x[result.partition.retain_mask.nonzero()[0]] = 99.0
    other = gu.unlearn(model, spoiled, request(), "retrain", TASK, **options)
    assert not same_weights(result.model, other.model)
