"""What stays as it is while a model learns: some of its parameters, its statistics, all of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
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


class RetainedStatistics(AbstractContextManager):
    """Batch normalisation takes its statistics of retained nodes alone inside the block, as in training without others.

    Forgotten nodes that are read in the same pass are normalised by them, and leave no trace in running statistics.
    Passes over other rows than those of the graph, or with less than two retained ones, read running statistics, and
    leave them as they are.

    Args:
        model: whose layers.
        retained: which rows of a pass are retained nodes, boolean `[num_nodes]`.
    """

    def __init__(self, model: nn.Module, retained: Tensor) -> None:
        self.model, self.retained = model, retained
        self.layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]

    def __enter__(self) -> None:
        """Put the normalisation in the place of the layers' own."""
        for layer in self.layers:
            layer.__dict__["forward"] = partial(self._normalise, layer)

    def __exit__(self, *error: object) -> None:
        """Take it off again."""
        for layer in self.layers:
            del layer.__dict__["forward"]

    def on(self, subgraph: Any) -> RetainedStatistics:
        """Return the same context for a part of the graph."""
        return RetainedStatistics(self.model, self.retained[subgraph.n_id.to(self.retained.device)])

    def _normalise(self, layer: Any, x: Tensor) -> Tensor:
        own, rows = type(layer).forward, self.retained.to(x.device)
        if not layer.training:
            return own(layer, x)
        if x.size(0) != rows.numel():
            with FrozenStatistics(layer):
                return own(layer, x)
        kept, others = x[rows], x[~rows]
        if kept.numel() // x.size(1) < 2:  # one value has no variance
            with FrozenStatistics(layer):
                return own(layer, x)
        dims = [dim for dim in range(x.dim()) if dim != 1]
        mean, variance = kept.mean(dims, keepdim=True), kept.var(dims, unbiased=False, keepdim=True)
        others = (others - mean) * (variance + layer.eps).rsqrt()
        if layer.affine:
            shape = [1, -1, *[1] * (x.dim() - 2)]
            others = others * layer.weight.view(shape) + layer.bias.view(shape)
        place = torch.cat([rows.nonzero().view(-1), (~rows).nonzero().view(-1)]).argsort()
        return torch.cat([own(layer, kept), others])[place]


def freeze(model: nn.Module) -> nn.Module:
    """Set evaluation mode and take no gradients; return the model."""
    with torch.no_grad():  # a memory is brought up to date when training ends
        return model.eval().requires_grad_(False)
