"""Batch normalisation along paths: by which statistics barriers are judged, and on which items they are computed."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gunlearn as gu
from gunlearn.connectivity import LinearPath, PathEvaluation, barrier, connect
from gunlearn.errors import InvalidInputError
from tests.connectivity.cases import items, perceptron, trained

TASK = gu.ImageClassification()


@pytest.fixture(scope="module")
def models():
    data = items(number=60)
    return data, [trained(perceptron(seed, norm=True), data, seed) for seed in (0, 5)]


def by_hand(ends: list[nn.Module], t: float, x: torch.Tensor, data: object, mask: torch.Tensor) -> float:
    """The loss of masked items at a point, with the statistics of `x` `[num_items, 4]`, in plain arithmetic."""
    one, two = (dict(model.named_parameters()) for model in ends)
    w = {name: (1 - t) * one[name] + t * two[name] for name in one}
    seen, read = (nn.functional.linear(rows, w["0.weight"], w["0.bias"]) for rows in (x, data.x[mask]))
    scaled = (read - seen.mean(0)) / (seen.var(0) + 1e-5).sqrt() * w["1.weight"] + w["1.bias"]
    out = nn.functional.linear(scaled.tanh(), w["3.weight"], w["3.bias"])
    return float(nn.functional.cross_entropy(out, data.y[mask]))


def test_stale_statistics_of_an_end_hide_no_barrier(models) -> None:
    """Control: with the stale end itself in the line between the ends, the barrier would be gone."""
    data, (first, second) = models
    stale = copy.deepcopy(second)
    with torch.no_grad():
        stale[1].running_mean.add_(3.0)
    found, other = (connect(first, end, data, task=TASK, points=11).evaluation for end in (second, stale))
    expected = [by_hand([first, second], k / 10, data.x[data.train_mask], data, data.train_mask) for k in range(11)]
    assert found.column("loss_retain") == pytest.approx(expected, abs=1e-4)
    assert found.barrier_retain == pytest.approx(barrier([k / 10 for k in range(11)], expected), abs=1e-4)
    assert found.barrier_retain > 0.02
    assert other.column("loss_retain") == pytest.approx(found.column("loss_retain"), abs=1e-5)
    own = other.own_ends[1]["loss_retain"]
    logits = stale.eval()(data.x[data.train_mask])
    assert own == pytest.approx(float(nn.functional.cross_entropy(logits, data.y[data.train_mask])), abs=1e-5)
    hidden = [*other.column("loss_retain")[:-1], own]
    assert barrier(other.ts, hidden) < found.barrier_retain / 2  # control
    assert f"{own:.4g}" in next(line for line in other.table().splitlines() if line.strip().startswith("own 1"))


def test_the_models_own_losses_are_kept(models, tmp_path: Path) -> None:
    data, ends = models
    found = connect(*ends, data, task=TASK, points=3).evaluation
    assert PathEvaluation.load(found.save(tmp_path / "path.json")).own_ends == found.own_ends
    plain = connect(perceptron(0), perceptron(1), data, task=TASK, points=3).evaluation
    assert plain.own_ends == []
    assert "own 0" not in plain.table()


@pytest.mark.parametrize("form", ["data", "loader"])
def test_statistics_are_computed_on_the_stated_items(models, form: str) -> None:
    data, ends = models
    other = items(3, 70)
    other = TensorDataset(other.x, other.y)
    given = DataLoader(other, batch_size=16, shuffle=True) if form == "loader" else (other.tensors[0], other.tensors[1])
    request = gu.ForgetItems(label=1)
    found = connect(*ends, data, request, TASK, points=3, loader=given)
    keep = found.partition.retain_mask
    expected = [by_hand(ends, t, other.tensors[0], data, keep) for t in (0.0, 0.5, 1.0)]
    assert found.evaluation.column("loss_retain") == pytest.approx(expected, abs=1e-4)
    assert "the loader's items" in found.evaluation.notes["statistics"]
    middle = found.dial.at(0.5)  # the dial's models have them too
    hidden = LinearPath(*ends).model_at(0.5, lambda model: model)[0](other.tensors[0])
    torch.testing.assert_close(middle[1].running_mean, hidden.mean(0).detach(), rtol=1e-4, atol=1e-5)
    usual = connect(*ends, data, request, TASK, points=3).evaluation  # control
    assert usual.column("loss_retain")[1] != pytest.approx(expected[1], abs=1e-3)


def test_a_loader_without_statistics_is_refused() -> None:
    data = items()
    with pytest.raises(InvalidInputError, match="'loader' for models with statistics"):
        connect(perceptron(0), perceptron(1), data, task=TASK, points=3, loader=data)


def test_test_items_have_a_loss_along_the_path(models) -> None:
    data, ends = models
    found = connect(*ends, data, task=TASK, points=3).evaluation
    expected = [by_hand(ends, t, data.x[data.train_mask], data, data.test_mask) for t in (0.0, 0.5, 1.0)]
    assert found.column("loss_test") == pytest.approx(expected, abs=1e-4)
    held_back = copy.copy(data)
    del held_back.test_mask
    assert connect(*ends, held_back, task=TASK, points=3).evaluation.column("loss_test") == [None] * 3
