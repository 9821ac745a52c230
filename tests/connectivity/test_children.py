"""What stands on a path in place of its models, and what an evaluation remarks."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import gunlearn as gu
from gunlearn.connectivity import connect, save_path
from gunlearn.connectivity.alignment import MessageCalibration, merge_in_closed_form
from gunlearn.errors import InvalidInputError, UnsupportedModelError
from tests.connectivity.cases import gnn, graph, items, perceptron, trained

TASK = "node_classification"
IMAGES = gu.ImageClassification()


@pytest.fixture(scope="module")
def nodes():
    data = graph()
    models = [gu.train(gnn("gcn", data, seed), data, TASK, epochs=60, seed=seed).model.eval() for seed in (0, 1)]
    return data, models


def loss(model: nn.Module, data: object) -> float:
    with torch.no_grad():
        logits = model(data.x, data.edge_index)
    return float(nn.functional.cross_entropy(logits[data.train_mask], data.y[data.train_mask]))


@pytest.mark.parametrize("child", ["calibrated", "merged"])
def test_models_between_the_ends_are_calibrated_or_merged(nodes, child: str) -> None:
    """The control is the straight line, whose middle has another loss."""
    data, (first, second) = nodes
    line, found = (connect(first, second, data, task=TASK, points=3, child=c) for c in (None, child))
    middle = line.path.model_at(0.5)
    if child == "calibrated":
        want = MessageCalibration(first, second, data=data)(middle, 0.5)
    else:
        want = merge_in_closed_form(first, second, 0.5, data=data)[0]
    rows = found.evaluation.column("loss_retain")
    assert rows == pytest.approx([loss(m, data) for m in (first, want, second)], rel=1e-4)
    assert rows[1] != pytest.approx(line.evaluation.column("loss_retain")[1], rel=1e-2)
    assert found.evaluation.notes["child"].startswith(f"{child}; ")
    assert "convs.1" in found.evaluation.notes["child"]
    assert loss(found.dial.at(0.5), data) == pytest.approx(rows[1], rel=1e-4)


def test_a_function_of_the_caller_s_makes_them_too(nodes, tmp_path: Path) -> None:
    data, (first, second) = nodes
    asked: list[float] = []

    def first_again(model: nn.Module, t: float) -> nn.Module:
        asked.append(t)
        return first

    found = connect(first, second, data, task=TASK, points=5, child=first_again)
    assert asked == [0.25, 0.5, 0.75]
    assert found.evaluation.column("loss_retain")[:4] == pytest.approx([loss(first, data)] * 4)
    with pytest.raises(UnsupportedModelError, match="whose models a 'child' changes"):
        save_path(found.path, tmp_path / "path")
    for other in (None, nn.Linear(2, 2)):
        with pytest.raises(InvalidInputError, match="to return a model of the path's architecture"):
            connect(first, second, data, task=TASK, points=3, child=lambda model, t, other=other: other)
    with pytest.raises(InvalidInputError, match="'child'"):
        connect(first, second, data, task=TASK, points=3, child="colour")
    with pytest.raises(InvalidInputError, match="path='linear' for child='merged'"):
        connect(first, second, data, task=TASK, points=3, child="merged", path="bezier", steps=1)


class Kept(nn.Module):
    """Keeps what it computed last, as many do to look at it later."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        self.last = self.inner(x, edge_index)
        return self.last


def test_models_that_keep_a_tensor_of_their_last_pass_are_connected(nodes) -> None:
    """With its history, which torch does not copy; the control keeps none."""
    data, models = nodes
    kept = [Kept(model) for model in models]
    for model in kept:
        assert model(data.x, data.edge_index).grad_fn is not None
    found = [connect(*ends, data, task=TASK, points=3).evaluation.column("loss_retain") for ends in (kept, models)]
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    for more in ({"align": "weights"}, {"align": "messages"}, {"child": "calibrated"}):
        found = [
            connect(*ends, data, task=TASK, points=3, **more).evaluation.column("loss_retain")
            for ends in (kept, models)
        ]
        assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_children_of_images_with_batch_normalisation_have_their_own_statistics() -> None:
    data = items(number=60)
    ends = [trained(perceptron(seed, norm=True), data, seed) for seed in (0, 1)]
    found = connect(*ends, data, task=IMAGES, points=3, child="merged")
    middle = found.dial.at(0.5)
    hidden = middle[0](data.x[data.train_mask])
    torch.testing.assert_close(middle[1].running_mean, hidden.mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # of the older function
@pytest.mark.parametrize("norm", [weight_norm, nn.utils.weight_norm])
def test_paths_on_factors_of_weights_say_so(norm) -> None:
    data, models = items(), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(nn.Sequential(norm(nn.Linear(4, 6)), nn.Tanh(), nn.Linear(6, 3)))
        with torch.no_grad():
            models[-1](data.x)  # a product with a gradient has no copy
    found = connect(*models, data, task=IMAGES, points=3)
    assert "factors of '0.weight'" in found.evaluation.notes["factors"]
    middle = found.path.model_at(0.5)
    mean = (models[0][0].weight + models[1][0].weight) / 2
    assert not torch.allclose(middle[0].weight, mean, atol=1e-3)  # what the note is about
    plain = connect(perceptron(0), perceptron(1), data, task=IMAGES, points=3)  # control
    assert "factors" not in plain.evaluation.notes


def test_metrics_without_a_value_are_named() -> None:
    data, request = items(number=60), gu.ForgetItems(label=1)
    a, b, base, other = (trained(perceptron(seed), data, seed, steps=20) for seed in range(4))
    names = ["relearn_steps"]
    found = connect(a, b, data, request, IMAGES, points=3, metrics=names).evaluation
    assert found.notes["metrics"] == "without a value: relearn_steps (got no 'original' and 'references')"
    known = connect(a, b, data, request, IMAGES, points=3, metrics=names, original=base, references=[other]).evaluation
    assert "metrics" not in known.notes
    assert None not in known.column("relearn_steps")
    with pytest.raises(InvalidInputError, match="a request for 'metrics'"):
        connect(a, b, data, task=IMAGES, points=3, metrics=names)
