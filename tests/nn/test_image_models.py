"""Small classifiers of images: shapes, sizes, weights that can be drawn anew."""

import pytest
import torch
from torch import nn

from gunlearn.errors import InvalidInputError
from gunlearn.nn import IMAGE_BACKBONES, SmallCNN, SmallResNet
from gunlearn.training.from_scratch import fresh_like


@pytest.mark.parametrize("name", IMAGE_BACKBONES)
@pytest.mark.parametrize(("channels", "side", "widths"), [(1, 8, (16, 32, 64)), (3, 32, (4, 8)), (1, 28, (4,))])
def test_logits_of_any_size(name: str, channels: int, side: int, widths: tuple[int, ...]) -> None:
    model = IMAGE_BACKBONES[name](channels, 7, widths)
    assert model(torch.randn(5, channels, side, side)).shape == (5, 7)
    other = fresh_like(model)  # as retraining does
    learned = [(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True) if a.dim() > 1]
    assert all(not torch.equal(a, b) for a, b in learned)


def test_the_digits_cnn_has_three_convolutions() -> None:
    convolutions = [module for module in SmallCNN().modules() if isinstance(module, nn.Conv2d)]
    assert [module.out_channels for module in convolutions] == [16, 32, 64]
    assert not [module for module in SmallCNN().modules() if isinstance(module, nn.BatchNorm2d)]
    assert [m.num_features for m in SmallResNet().modules() if isinstance(m, nn.BatchNorm2d)].count(64) == 3


@pytest.mark.parametrize("arguments", [(0, 10, (4,)), (1, 0, (4,)), (1, 10, ()), (1, 10, (4, 0))])
def test_sizes_below_one(arguments: tuple) -> None:
    for build in IMAGE_BACKBONES.values():
        with pytest.raises(InvalidInputError, match="sizes >= 1"):
            build(*arguments)
