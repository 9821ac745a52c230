"""A briefly trained new model shows what forgotten items look like to who never saw them."""

from typing import Any

import pytest
import torch
from torch import nn
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.errors import InvalidInputError, UnsupportedMethodError, UnsupportedModelError
from gunlearn.methods.any_task.brief_teacher import _as_sure, _entropy
from tests.methods.cases import same_weights

TASK = "image_classification"
STEPS: dict[str, Any] = {"steps": 60}
TAUGHT = {"teacher_share": 0.6, "unseen_weight": 0.05}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 3))


def memorised() -> tuple[Any, gu.Result, list[int]]:
    """Three clouds of points, six of them with a wrong label, and a model that has learned these by heart."""
    torch.manual_seed(0)
    y = torch.arange(3).repeat(40)
    x = torch.randn(120, 6) + 2.0 * torch.eye(6)[y]
    wrong = list(range(6))
    y[wrong] = (y[wrong] + 1) % 3
    data = Data(x=x, y=y, val_mask=torch.arange(120) >= 90)
    base = gu.train(net(), data, TASK, epochs=300, lr=1e-2, eval_every=300)
    return data, base, wrong


def known(model: nn.Module, data: Any, ids: list[int]) -> float:
    with torch.no_grad():
        return float(model.eval()(data.x[ids]).softmax(-1)[range(len(ids)), data.y[ids]].mean())


def test_what_was_learned_by_heart_goes_which_continuing_keeps() -> None:
    data, base, wrong = memorised()
    request = gu.ForgetItems(wrong)
    assert known(base.model, data, wrong) > 0.9
    taught, continued = (
        gu.unlearn(base.model, data, request, "continued_training", TASK, training=base, **STEPS, **more)
        for more in (TAUGHT, {})
    )
    assert taught.mode == "taught"
    assert taught.epochs == 24
    assert taught.notes["passes"] == 36 + 2
    assert known(continued.model, data, wrong) > 0.5  # control: the same steps without a teacher
    assert known(taught.model, data, wrong) < 0.25
    right = [i for i in range(90) if i not in wrong]
    assert known(taught.model, data, right) > 0.9


def test_neither_it_nor_its_teacher_reads_a_forgotten_label() -> None:
    data, base, wrong = memorised()
    other = data.clone()
    other.y[wrong] = (other.y[wrong] + 1) % 3
    one, two = (
        gu.unlearn(base.model, d, gu.ForgetItems(wrong), "continued_training", TASK, training=base, **STEPS, **TAUGHT)
        for d in (data, other)
    )
    assert same_weights(one.model, two.model)


@pytest.mark.parametrize("bernoulli", [False, True])
def test_the_teacher_is_made_as_sure_as_the_original(bernoulli: bool) -> None:
    torch.manual_seed(0)
    shape = (200,) if bernoulli else (200, 4)
    teacher, original = torch.randn(shape, dtype=torch.double), 3.7 * torch.randn(shape, dtype=torch.double)
    factor = _as_sure(teacher, original, bernoulli)
    assert _entropy(factor * teacher, bernoulli) == pytest.approx(_entropy(original, bernoulli), rel=1e-6)
    assert factor > 2


def test_what_cannot_be_taught_is_refused() -> None:
    data, base, wrong = memorised()
    with pytest.raises(InvalidInputError, match="teacher_share"):
        gu.unlearn(base.model, data, gu.ForgetItems(wrong), "continued_training", TASK, epochs=3, teacher_share=0.5)
    with pytest.raises(InvalidInputError, match="teacher_share"):
        gu.unlearn(base.model, data, gu.ForgetItems(wrong), "continued_training", TASK, steps=3, teacher_share=1.0)
    graph = gu.node_split(gu.load("karate"), 0.2, 0.2, seed=0)
    torch.manual_seed(0)
    model = gu.GCN(graph.num_features, 8, 4)
    with pytest.raises(UnsupportedMethodError):
        gu.unlearn(
            model, graph, gu.ForgetEdges(count=2), "continued_training", "node_classification", **STEPS, **TAUGHT
        )

    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight

    with pytest.raises(UnsupportedModelError):
        gu.unlearn(Fixed(), data, gu.ForgetItems(wrong), "continued_training", TASK, **STEPS, **TAUGHT)
