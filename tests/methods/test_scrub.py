"""SCRUB: the phases' losses, the direction of the ascent, the rewind, and a class of digits forgotten."""

import copy
import warnings
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
from gunlearn.methods.any_task.scrub_warnings import direction
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


def batches_of(method: Scrub) -> list[tuple[str, int]]:
    """The part that each step reads, and how many of its items, as the loop hands them out."""
    seen: list[tuple[str, int]] = []

    class Watched(type(IMAGES)):
        def decode(self, model: nn.Module, outputs: None, items: Any) -> Prediction:
            if model.training:
                seen.append(("f" if bool((items.y == 3).all()) else "r", len(items.y)))
                rows.append(items.x)
            return super().decode(model, outputs, items)

    rows: list[torch.Tensor] = []
    run_method(method, digits()[0], threes(), Watched())
    for letter, mask in (("f", threes().forget_mask), ("r", threes().retain_mask)):  # each epoch reads each item once
        read = [x for (part, _), x in zip(seen, rows, strict=True) if part == letter]
        epochs = method.max_epochs if letter == "f" else method.epochs
        whole = digits()[1].x[mask].repeat(epochs, 1)
        assert torch.equal(torch.cat(read).sort(0).values, whole.sort(0).values)
    return seen


def test_a_notebooks_epochs() -> None:
    """A pass over the forget set in its batches, then one over the retained data in theirs; the rest only minimise."""
    forget, retain = int(threes().forget_mask.sum()), int(threes().retain_mask.sum())
    away, back = -(-forget // 16), -(-retain // 200)
    seen = batches_of(Scrub(mode="mia", epochs=3, max_epochs=2, batch_size=200))
    assert "".join(part for part, _ in seen) == 2 * (away * "f" + back * "r") + back * "r"
    assert {size for part, size in seen if part == "f"} == {16, forget % 16 or 16}


def test_a_notebooks_rates() -> None:
    """`epoch > m` in the authors' loop: the rate falls after epoch m, by ten each time."""
    rates: list[float] = []
    watch = On(step_begin=lambda optimizer, **_: rates.append(optimizer.param_groups[0]["lr"]))
    options = {"batch_size": 500, "forget_batch_size": 100, "max_epochs": 3}
    result = run_method(Scrub(mode="small", **options), digits()[0], threes(), IMAGES, callbacks=[watch])
    away, back = -(-threes().num_forget // 100), -(-threes().num_retain // 500)
    per_epoch = [away * (epoch <= 3) + back for epoch in range(1, 11)]
    expected = [5e-4 * 0.1 ** sum(e > m for m in (5, 8, 9)) for e, n in enumerate(per_epoch, 1) for _ in range(n)]
    assert rates == pytest.approx(expected)
    assert result.history[-1]["step"] == sum(per_epoch)


@pytest.mark.filterwarnings("ignore:'scrub_r' takes")
def test_candidates_of_a_notebook_are_its_epochs() -> None:
    options = {"epochs": 4, "max_epochs": 1, "forget_batch_size": 20, "batch_size": 300, "lr": 1e-2}
    result = on_digits(ScrubR(mode="mia", tie_break="earliest", **options))
    assert result.notes["chosen"] <= 4
    assert result.notes["candidates"] <= 5


def test_too_few_steps_away_are_told() -> None:
    with pytest.warns(UserWarning, match=r"takes 4 steps away.*'max_epochs'"):
        on_digits(Scrub(max_epochs=1, max_steps=4, epochs=10))
    with pytest.warns(UserWarning, match="takes 6 steps away"):  # 3 epochs of one batch would do with smaller ones
        on_digits(Scrub(mode="small", forget_batch_size=64, epochs=4, batch_size=500))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        on_digits(Scrub(epochs=40))  # the default takes 15
        on_digits(Scrub(mode="small", forget_batch_size=16, epochs=4, batch_size=500))


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
        return direction(problem, other, parts, 4.0, None)

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
