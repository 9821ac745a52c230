"""Handwritten digits in three settings: a class, confused classes, learned by heart; and their models."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.seed import isolated_rng

TASK = gu.ImageClassification()
A, B = 3, 8  # the forgotten class, and the one that it is confused with


def cnn(width: int = 16) -> nn.Module:
    """A network of three convolutions for images of 8 x 8."""
    conv = [nn.Conv2d(a, b, 3, padding=1) for a, b in ((1, width), (width, 2 * width), (2 * width, 4 * width))]
    return nn.Sequential(
        conv[0], nn.ReLU(), conv[1], nn.ReLU(), nn.MaxPool2d(2), conv[2], nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(16 * width, 10),
    )  # fmt: skip


def perceptron() -> nn.Module:
    """A network of 128 hidden units."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


@cache
def digits(seed: int) -> Data:
    """The 1797 images in an order of their own: 60 % to learn, 20 % to choose a candidate on, 20 % to test."""
    bunch = load_digits()
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(seed))
    x = torch.tensor(bunch.images / 16.0, dtype=torch.float32)[order].unsqueeze(1)
    row = torch.arange(1797)
    masks = {"train_mask": row < 1078, "val_mask": (row >= 1078) & (row < 1438), "test_mask": row >= 1438}
    return Data(x=x, y=torch.tensor(bunch.target)[order], **masks)


def forgotten_class(seed: int) -> tuple[Data, Tensor]:
    """All training images of a class are to go."""
    data = digits(seed)
    return data, data.train_mask & (data.y == A)


def confused(seed: int, number: int = 30) -> tuple[Data, Tensor]:
    """So many training images of each of two classes have the label of the other one, and are to go."""
    data = digits(seed).clone()
    swapped = torch.zeros_like(data.train_mask)
    for label in (A, B):
        swapped[(data.train_mask & (digits(seed).y == label)).nonzero().view(-1)[:number]] = True
    data.y = torch.where(swapped, A + B - data.y, data.y)
    return data, swapped


def by_heart(seed: int, train: int = 400, forget: int = 60, noise: float = 0.25) -> tuple[Data, Tensor]:
    """Few training images and random labels for a quarter of all, so that labels must be learned by heart."""
    data = digits(seed).clone()
    generator = torch.Generator().manual_seed(1000 + seed)
    other = torch.randint(10, data.y.shape, generator=generator)
    data.y = torch.where(torch.rand(data.y.shape, generator=generator) < noise, other, data.y)
    row = torch.arange(len(data.y))
    data.train_mask, gone = row < train, row < forget
    data.test_mask = row >= 1438
    return data, gone


def train(
    make: Callable[[], nn.Module], data: Any, seed: int, epochs: int, lr: float = 1e-3, batch_size: int | None = 64
) -> gu.Result:
    """Train a model of new weights by Adam."""
    with isolated_rng(seed):
        model = make()
    return gu.train(model, data, TASK, epochs=epochs, lr=lr, batch_size=batch_size, seed=seed)


def frozen_body(model: nn.Module) -> nn.Module:
    """The model, of which its last layer alone learns."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in model[-1].parameters():
        parameter.requires_grad_(True)
    return model
