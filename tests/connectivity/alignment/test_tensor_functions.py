"""Functions between layers: followed where channels keep their names, left alone where they do not, never wrong."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gunlearn.connectivity import align_models
from gunlearn.nn import SmallCNN

#: What a model does between a map to `[12, 6]` and one back, and whether order and factors of the six are free.
FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], bool, bool]] = {
    "relu": (torch.relu, True, True),
    "leaky_relu": (lambda h: functional.leaky_relu(h, 0.2), True, True),
    "tanh": (torch.tanh, True, False),
    "times a number": (lambda h: (2 * h).relu() / 3, True, True),
    "plus a number": (lambda h: (1 + h).relu(), True, False),
    "a number less": (lambda h: 1 - h, True, False),
    "one over": (lambda h: 1 / (1 + h.exp()), True, False),
    "shortcut": (lambda h: h + torch.relu(h), True, True),
    "by keyword": (lambda h: torch.add(h, other=torch.relu(h)), True, True),
    "in place": (lambda h: h.clone().add_(1.0).relu_(), True, False),
    "square by product": (lambda h: h * h, True, False),
    "the larger": (lambda h: torch.max(h, 0.5 * h), True, True),
    "length taken out": (lambda h: h / h.norm(2, -1, keepdim=True), True, False),
    "mean taken out": (lambda h: h - h.mean(-1, keepdim=True), True, False),
    "mean over items": (lambda h: h - h.mean(0), True, True),
    "normalize": (lambda h: functional.normalize(h, dim=-1), True, False),
    "softmax": (lambda h: h.softmax(-1), True, False),
    "two copies side by side": (lambda h: torch.stack([h, h.relu()]).amax(0), True, True),
    "turned twice": (lambda h: h.t().relu().T, True, True),
    "folded and unfolded": (lambda h: h.view(3, 4, 6).relu().flatten(0, 1), True, True),
    "permuted axes": (lambda h: h.view(3, 4, 6).permute(2, 0, 1).relu().permute(1, 2, 0).reshape(12, 6), True, True),
    "rows in reverse": (lambda h: h[torch.arange(11, -1, -1)], True, True),
    "some rows": (lambda h: h[2:9], True, True),
    "summed over neighbours": (lambda h: torch.zeros(12, 6).index_add(0, torch.arange(12) // 2, h), True, True),
    "a matrix before": (lambda h: torch.ones(12, 12).tril() @ h, True, True),
    "channels added": (lambda h: h + torch.arange(6.0), False, False),
    "channels scaled": (lambda h: h * torch.arange(6.0), False, False),
    "channels rolled": (lambda h: torch.roll(h, 1, dims=-1), False, False),
    "channels split": (lambda h: h.view(12, 2, 3).flip(1).reshape(12, 6), False, False),
    "running sums": (lambda h: h.cumsum(-1), False, False),
    "a channel set to zero": (lambda h: _set(h.clone()), False, False),
    "a matrix behind": (lambda h: h @ torch.arange(36.0).reshape(6, 6), False, False),
}


def _set(h: Tensor) -> Tensor:
    h[:, 2] = 0.0
    return h


class Between(nn.Module):
    """A hidden layer whose order is free, beside the one that the function sees."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.function(self.b(self.a(x).relu())))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_channels_through_a_function(name: str) -> None:
    function, ordered, scaled = FUNCTIONS[name]
    torch.manual_seed(0)
    first, second = Between(function).double(), Between(function).double()
    x = torch.randn(12, 4).double()
    if name in ("summed over neighbours", "a matrix before", "channels added", "channels scaled", "a matrix behind"):
        first, second, x = first.float(), second.float(), x.float()
    found = align_models(first, second, inputs=x)
    assert ("b" in found.permutations) == ordered, found.notes
    assert ("b" in found.factors) == scaled, found.notes
    assert "a" in found.permutations
    torch.testing.assert_close(found.model(x), second(x), rtol=1e-4, atol=1e-5)
    if ordered:
        assert found.permutations["b"].tolist() != list(range(6))
    else:
        assert found.notes["left"]["b"]


def test_joined_channels_are_told_apart() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(4, 6), nn.Linear(15, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.cat([self.a(x).relu(), x, self.b(x).relu()], dim=-1))

    torch.manual_seed(0)
    x = torch.randn(12, 4)
    first, second = Joined(), Joined()
    found = align_models(first, second, inputs=x)
    assert sorted(found.permutations) == ["a", "b"]
    assert torch.equal(found.model.c.weight[:, 5:9], second.c.weight[:, 5:9])  # the input's own
    torch.testing.assert_close(found.model(x), second(x))


def test_images_may_be_flattened_into_places() -> None:
    torch.manual_seed(0)
    first, second = (
        nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(5 * 9, 3))
        for _ in range(2)
    )
    images = torch.randn(6, 1, 8, 8)
    found = align_models(first, second, inputs=images)
    order = found.permutations["0"]
    places = (order[:, None] * 9 + torch.arange(9)).flatten()
    moved = second[4].weight[:, places] / found.factors["0"].float().repeat_interleave(9)
    torch.testing.assert_close(found.model[4].weight, moved)


def test_a_cnn_in_training_mode_is_aligned_in_evaluation_mode() -> None:
    torch.manual_seed(0)
    first, second = (nn.Sequential(SmallCNN(widths=(4, 5)), nn.Dropout(0.5)).train() for _ in range(2))
    assert align_models(first, second, "messages", inputs=torch.randn(6, 1, 8, 8)).model.training
