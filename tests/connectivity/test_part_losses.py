"""Which items losses of parts read, and by what running statistics are computed anew."""

import copy

import pytest
import torch

import gunlearn as gu
from gunlearn.connectivity import PartLosses, connect
from gunlearn.tasks.items.statistics import batch_norm_layers, recalibrate
from tests.connectivity.cases import items, perceptron, trained


def uneven():
    """1026 training items, two more than a piece holds, the last two far from the others; and a model of them."""
    data = items(number=1036)
    data.x[1024:1026] += 20
    return data, trained(perceptron(norm=True), data, steps=20)


def test_statistics_are_those_of_all_items() -> None:
    """With equal weights the last piece of two items would count as much as the first of 1024."""
    data, model = uneven()
    (layer,) = batch_norm_layers(model)
    entering = model[0](data.x[:1026]).detach()
    PartLosses(gu.ImageClassification(), None, model, data).recompute(model)
    torch.testing.assert_close(layer.running_mean, entering.mean(0), rtol=1e-5, atol=1e-5)
    recalibrate(model, [layer], data.x[:1026].split(1024))
    torch.testing.assert_close(layer.running_mean, entering.mean(0), rtol=1e-5, atol=1e-5)
    within = torch.stack([entering[:1024].var(0) * 1024, entering[1024:].var(0) * 2]).sum(0) / 1026
    torch.testing.assert_close(layer.running_var, within, rtol=1e-4, atol=1e-5)


def test_a_model_is_connected_with_its_copy() -> None:
    """The ends have the statistics of all items in one pass; in between they are computed in pieces."""
    data = items(number=1036)
    model = trained(perceptron(norm=True), data, steps=20)
    recalibrate(model, batch_norm_layers(model), [data.x[:1026]])
    found = connect(model, copy.deepcopy(model), data, task=gu.ImageClassification(), points=3).evaluation
    assert found.barrier_retain < 1e-3


def test_all_items_of_a_part_are_read() -> None:
    """A task with a batch size reads so many at a step, and their losses alone would be another number."""
    data = items(number=60)
    model = trained(perceptron(), data, steps=20)
    partition = gu.ForgetItems(count=20).resolve(data)
    whole, batched = (PartLosses(gu.ImageClassification(size), partition, model) for size in (None, 16))
    assert batched.number("retain") == 30
    assert batched.losses(model) == {name: pytest.approx(value) for name, value in whole.losses(model).items()}
