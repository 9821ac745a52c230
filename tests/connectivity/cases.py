"""Small models and problems of the tests of paths."""

from typing import Any

import torch
from torch import nn
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.nn import backbone
from gunlearn.seed import isolated_rng


def perceptron(seed: int = 0, norm: bool = False) -> nn.Module:
    """A network of 4 inputs and 3 classes, with batch normalisation or without."""
    with isolated_rng(seed):
        middle: list[nn.Module] = [nn.BatchNorm1d(6)] if norm else []
        return nn.Sequential(nn.Linear(4, 6), *middle, nn.Tanh(), nn.Linear(6, 3))


def items(seed: int = 0, number: int = 40) -> Data:
    """Points of three classes that a line can part, a few of them held out."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(number) % 3
    x = torch.randn(number, 4, generator=generator) + 2 * torch.eye(4)[y]
    row = torch.arange(number)
    held = {"val_mask": (row >= number - 10) & (row < number - 5), "test_mask": row >= number - 5}
    return Data(x=x, y=y, train_mask=row < number - 10, **held)


def trained(model: nn.Module, data: Data, seed: int = 0, steps: int = 150) -> nn.Module:
    """The model, trained on the items."""
    return gu.train(model, data, gu.ImageClassification(), epochs=steps, lr=0.02, seed=seed).model


def graph(seed: int = 0) -> Data:
    """A small graph of two communities, split for node classification."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(40) % 2
    probability = torch.where(y[:, None] == y[None], 0.3, 0.03)
    upper = (torch.rand(40, 40, generator=generator) < probability).triu(1)
    edges = torch.cat([upper.nonzero().t(), upper.nonzero().t().flip(0)], dim=1)
    x = torch.randn(40, 5, generator=generator) + y[:, None]
    return gu.node_split(Data(x=x, edge_index=edges, y=y), seed=seed)


def gnn(kind: str, data: Data, seed: int = 0) -> nn.Module:
    """A graph network of two layers."""
    with isolated_rng(seed):
        return backbone(kind, data.num_features, 8, int(data.y.max()) + 1, 2)


def some_classifiers(number: int) -> tuple[Data, Any, list[nn.Module]]:
    """Sixty items, a partition that forgets nine of them, and so many classifiers from different initial weights."""
    data = items(number=60)
    models = [trained(perceptron(seed), data, seed, steps=60) for seed in range(number)]
    return data, gu.ForgetItems(count=9).resolve(data), models
