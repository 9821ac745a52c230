"""SCRUB: the phases' losses, the direction of the ascent, the rewind, and a class of digits forgotten."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import nn

import gunlearn as gu
from gunlearn.errors import UnsupportedMethodError
from gunlearn.losses import Prediction
from gunlearn.methods import Scrub, ScrubR, run_method
from gunlearn.methods.any_task.scrub import _direction
from gunlearn.methods.gradient import FrozenStatistics
from tests.methods.cases import fresh_model, make_data, same_weights, weights
from tests.methods.forgetting import IMAGES, digits, on_digits, on_karate, threes
from tests.training.callbacks import On

STUDENT = np.array([[2.0, -1.0, 0.5], [0.0, 1.0, -2.0]])
TEACHER = np.array([[1.0, 0.0, 3.0], [-1.0, 2.0, 0.5]])
LABEL = np.array([2, 0])


def prediction(logits: np.ndarray) -> Prediction:
    z = torch.tensor(logits)
    return Prediction(log_prob=z.log_softmax(-1)[torch.arange(2), torch.tensor(LABEL)], logits=z)


def distance(temperature: float) -> float:
    teacher, student = softmax(TEACHER / temperature, 1), softmax(STUDENT / temperature, 1)
    return float(temperature**2 * (teacher * np.log(teacher / student)).sum(-1).mean())


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_the_losses_of_both_phases(temperature: float) -> None:
    method = Scrub(temperature=temperature, alpha=0.3, gamma=0.7, max_steps=1, min_steps=1, ascent_first=False)
    parts = [{name: prediction(z) for name in ("forget", "retain")} for z in (STUDENT, TEACHER)]
    up, down = (float(method.objective_at(epoch)(*parts).total) for epoch in (0, 1))
    entropy = -np.log(softmax(STUDENT, 1)[[0, 1], LABEL]).mean()
    assert up == pytest.approx(-distance(temperature))  # not scaled by alpha, no labels, KL from the teacher
    assert down == pytest.approx(0.7 * entropy + 0.3 * distance(temperature))
    # Controls: the divergence the other way round, and one without the factor T^2, are other numbers.
    student, teacher = softmax(STUDENT / temperature, 1), softmax(TEACHER / temperature, 1)
    assert -up != pytest.approx(temperature**2 * (student * np.log(student / teacher)).sum(-1).mean(), rel=1e-2)


def test_which_phase_when() -> None:
    method = Scrub(max_epochs=2, max_steps=2, min_steps=3)
    phases = ["".join(sorted(method.objective_at(epoch).parts))[0] for epoch in range(14)]
    assert "".join(phases) == "ffrrrffrrrrrrr"
    assert method.objective_at(0).labels == ("gradient_ascent(forget)",)
    assert Scrub(ascent_first=False).objective_at(0).labels == ("distillation(forget)",)


def test_no_label_of_the_forget_set_is_read() -> None:
    model, data = digits()
    rows = threes().forget_mask.nonzero().view(-1)
    spoiled = data.clone()
    spoiled.y = data.y.clone()
    spoiled.y[rows] = 5
    for first in (False, True):  # control: the default's first step does read them
        method = Scrub(epochs=12, ascent_first=first)
        results = [run_method(method, model, gu.ForgetItems(rows).resolve(d), IMAGES) for d in (data, spoiled)]
        assert same_weights(results[0].model, results[1].model) != first


def test_the_wrong_direction_is_noticed() -> None:
    """Divergence rises where a model becomes more certain, too: logits three times as large, or turned around."""
    model, _ = digits()
    problem = type("Problem", (), {"task": IMAGES, "reference": model})()
    parts = IMAGES.parts(threes())

    def scaled(factor: float) -> dict[str, Any]:
        other = copy.deepcopy(model).eval()
        other[-1].weight.data *= factor
        other[-1].bias.data *= factor
        return _direction(problem, other, parts, 4.0, None)

    with pytest.warns(UserWarning, match="more certain"):
        wrong = scaled(3.0)
    right, same = scaled(-1.0), scaled(1.0)
    assert wrong["direction"] == "wrong"
    assert wrong["forget_nll"][1] < wrong["forget_nll"][0]
    assert min(wrong["forget_divergence"], right["forget_divergence"]) > 0.01
    assert (right["direction"], same["direction"], same["forget_divergence"]) == ("right", "right", 0.0)


def test_running_statistics_stay() -> None:
    model = nn.Sequential(nn.BatchNorm1d(64), nn.Linear(64, 10))
    before = weights(model)
    with FrozenStatistics(model):
        model(torch.randn(7, 64))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model[0].training
    model(torch.randn(7, 64))  # control
    assert not torch.equal(model[0].running_mean, before["0.running_mean"])
    result = run_method(Scrub(epochs=6), model, threes(), IMAGES)
    assert torch.equal(result.model[0].running_mean, model[0].running_mean)
    assert not torch.equal(result.model[1].weight, model[1].weight)


@pytest.mark.parametrize("tie_break", ["earliest", "latest"])
def test_rewound_to_the_nearest_candidate(tie_break: str) -> None:
    """Against numpy, over all candidates; the last one repairs little here, so that the choice is not the last."""
    model, data = digits()
    partition, states = threes(), [weights(model)]
    keep = On(epoch_end=lambda model, **_: states.append(weights(model)))
    options = {"epochs": 12, "lr": 5e-3, "max_epochs": 1, "max_steps": 9, "min_steps": 3}
    result = run_method(ScrubR(tie_break=tie_break, **options), model, partition, IMAGES, callbacks=[keep])

    def error(state: dict[str, torch.Tensor], rows: torch.Tensor) -> float:
        w = {name: value.double().numpy() for name, value in state.items()}
        hidden = np.maximum(data.x[rows].double().numpy() @ w["0.weight"].T + w["0.bias"], 0)
        return float(((hidden @ w["2.weight"].T + w["2.bias"]).argmax(1) != data.y[rows].numpy()).mean())

    reference = error(states[-1], data.val_mask & (data.y == 3))
    gaps = np.array([abs(error(s, partition.forget_mask) - reference) for s in states])
    nearest = np.flatnonzero(gaps == gaps.min())
    chosen = int(nearest[0] if tie_break == "earliest" else nearest[-1])
    assert result.notes["chosen"] == chosen
    assert result.notes["reference_error"] == pytest.approx(reference)
    assert all(torch.equal(value, states[chosen][name]) for name, value in result.model.state_dict().items())
    assert result.epochs == 12
    # Controls: the errors differ between candidates, so another choice would be another model.
    assert gaps.max() > gaps.min() + 0.1


def test_the_original_model_is_candidate_0() -> None:
    for tie_break, chosen in (("earliest", 0), ("latest", 3)):
        result = on_digits(ScrubR(epochs=3, max_epochs=0, lr=1e-6, tie_break=tie_break))
        assert result.notes["chosen"] == chosen
        assert same_weights(result.model, digits()[0]) == (chosen == 0)


def test_rewinding_needs_validation_items() -> None:
    data = make_data()
    del data.val_pos_edge_index
    with pytest.raises(UnsupportedMethodError, match="validation items"):
        gu.unlearn(fresh_model("gcn"), data, gu.ForgetEdges(count=3), "scrub_r", epochs=1)
    model, digit = digits()
    digit = digit.clone()
    digit.val_mask = digit.val_mask & (digit.y != 3)
    request = gu.ForgetItems(threes().forget_mask.nonzero().view(-1))
    with pytest.raises(UnsupportedMethodError, match="of the forgotten classes"):
        gu.unlearn(model, digit, request, "scrub_r", IMAGES, epochs=1)
    for task in ("edges", "nodes"):
        assert on_karate(ScrubR(epochs=2), task).notes["chosen"] in (0, 1, 2)
