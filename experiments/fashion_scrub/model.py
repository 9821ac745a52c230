"""A small residual network with batch normalisation, all of whose blocks halve the images."""

from itertools import pairwise

from torch import nn

from gunlearn.nn.image_models import ResidualBlock

WIDTHS = (8, 8, 16, 32)


def small_resnet(in_channels: int, num_classes: int) -> nn.Sequential:
    """Return a model of `[num_images, in_channels, height, width]` with about 20 thousand weights."""
    first = nn.Conv2d(in_channels, WIDTHS[0], 3, padding=1, bias=False)
    blocks = [ResidualBlock(a, b, stride=2) for a, b in pairwise(WIDTHS)]
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], num_classes)
    return nn.Sequential(first, nn.BatchNorm2d(WIDTHS[0]), nn.ReLU(), *blocks, *head)
