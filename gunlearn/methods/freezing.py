"""What stays as it is while a model learns: some of its parameters, its statistics, all of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def learning_like(model: nn.Module, other: nn.Module) -> nn.Module:
    """Let those parameters of `model` learn that do in `other`, of the same architecture; return `model`."""
    for parameter, own in zip(model.parameters(), other.parameters(), strict=True):
        parameter.requires_grad_(own.requires_grad)
    return model


@contextmanager
def only(model: nn.Module, parameters: Collection[nn.Parameter] | None) -> Iterator[None]:
    """Let no other parameters than these learn inside the block; `None` changes nothing."""
    chosen = None if parameters is None else {id(p) for p in parameters}
    others = [] if chosen is None else [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    try:
        for parameter in others:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


class FrozenStatistics(AbstractContextManager):
    """Batch normalisation reads its running statistics inside the block, and leaves them as they are.

    Steps on the forget set alone would otherwise make its statistics the model's.

    Args:
        model: whose layers.
    """

    freezes_statistics = True

    def __init__(self, model: nn.Module) -> None:
        self.layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        self.modes: list[bool] = []

    def __enter__(self) -> None:
        """Set evaluation mode."""
        self.modes = [layer.training for layer in self.layers]
        for layer in self.layers:
            layer.eval()

    def __exit__(self, *error: object) -> None:
        """Restore the modes."""
        for layer, mode in zip(self.layers, self.modes, strict=True):
            layer.train(mode)

    def on(self, subgraph: Any) -> FrozenStatistics:
        """Return the same context for a part of the graph."""
        return self


def freeze(model: nn.Module) -> nn.Module:
    """Set evaluation mode and take no gradients; return the model."""
    with torch.no_grad():  # a memory is brought up to date when training ends
        return model.eval().requires_grad_(False)
