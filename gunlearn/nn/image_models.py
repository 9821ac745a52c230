"""Small classifiers of images that the command line and the studies train: torch alone."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from gunlearn.errors import InvalidInputError


class SmallCNN(nn.Sequential):
    """Convolutions of 3 x 3 with ReLU, halved by maxima between them, a mean over places, a linear map.

    Args:
        in_channels: of the images, 1 for grey ones.
        num_classes: logits per image.
        widths: channels of the convolutions.

    Raises:
        InvalidInputError: a size below 1.

    Shapes: images `[num_images, in_channels, height, width]`, sides of at least `2 ** (len(widths) - 1)`; logits
    `[num_images, num_classes]`.
    """

    def __init__(self, in_channels: int = 1, num_classes: int = 10, widths: Sequence[int] = (16, 32, 64)) -> None:
        _check(in_channels, num_classes, *widths)
        layers: list[nn.Module] = []
        for k, (a, b) in enumerate(pairwise((in_channels, *widths))):
            layers += [nn.MaxPool2d(2)] if k else []
            layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], num_classes))


class ResidualBlock(nn.Module):
    """Two convolutions with batch normalisation beside a shortcut (arXiv 1512.03385); halves both sides by `stride`."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        same = stride == 1 and in_channels == out_channels
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) + self.shortcut(x)).relu()


class SmallResNet(nn.Sequential):
    """A residual network with batch normalisation, one block per width; the images are halved at each but the first.

    Shapes and errors: see `SmallCNN`.
    """

    def __init__(self, in_channels: int = 1, num_classes: int = 10, widths: Sequence[int] = (16, 32, 64)) -> None:
        _check(in_channels, num_classes, *widths)
        first = [nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()]
        sizes = pairwise((widths[0], *widths))
        blocks = [ResidualBlock(a, b, 1 if k == 0 else 2) for k, (a, b) in enumerate(sizes)]
        super().__init__(*first, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], num_classes))


#: Models by the names that the command line takes: `(in_channels, num_classes, widths) -> model`.
IMAGE_BACKBONES: dict[str, Callable[[int, int, Sequence[int]], nn.Module]] = {"cnn": SmallCNN, "resnet": SmallResNet}


def _check(*sizes: int) -> None:
    if min(sizes) < 1 or len(sizes) < 3:
        raise InvalidInputError(f"Expected sizes >= 1 and at least one width (got {sizes})")
