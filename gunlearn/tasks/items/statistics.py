"""Running statistics of batch normalisation: which layers have them, and how they are computed anew."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gunlearn.errors import InvalidInputError
from gunlearn.tasks.parts import Parts

#: What becomes of them while a model unlearns.
STATISTICS = ("frozen", "recalibrated")


def batch_norm_layers(model: nn.Module) -> list[_BatchNorm]:
    """Return the layers with running statistics."""
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return [layer for layer in layers if layer.running_mean is not None]


@contextmanager
def averaged_anew(layers: Sequence[_BatchNorm]) -> Iterator[None]:
    """Forget the running statistics of layers; passes inside the block make them anew, all of which count alike."""
    momenta = [layer.momentum for layer in layers]
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


def check_batches(model: nn.Module, parts: Parts, names: Collection[str], size: int | None) -> None:
    """Refuse a batch of one item for batch normalisation that trains: one item has no variance, and torch no words.

    Args:
        model: that trains.
        parts: of the problem.
        names: those that steps read.
        size: items of a part that a step reads; `None` for all.

    Raises:
        InvalidInputError: a batch, or the last one of a pass, holds a single item.
    """
    layers = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    for part in names if layers else ():
        count = parts.count(part)
        last = count if size is None or size >= count else count % size or size
        if last == 1:
            batches = "" if size is None else f" in batches of {size}"
            remedy = "choose a 'batch_size' that leaves no single item" if count > 1 else "read more items"
            raise InvalidInputError(
                f"Expected batches of at least 2 items for batch normalisation in training mode ('{layers[0]}') (got "
                f"{'a last batch' if count > 1 else 'a batch'} of 1: {count} '{part}' items{batches}); {remedy}"
            )


@torch.no_grad()
def recalibrate(model: nn.Module, layers: list[_BatchNorm], batches: Iterable[Tensor]) -> int:
    """Replace running statistics by the mean of those of batches `[num_items, ...]`; return the number of items.

    Everything but these layers runs in evaluation mode, and the modes come back.
    """
    device, count = next(model.parameters()).device, 0
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with averaged_anew(layers):
            for layer in layers:
                layer.train()
            for x in batches:
                if len(x) < 2 and count:  # a last item alone has no variance
                    continue
                model(x.to(device))
                count += len(x)
    finally:
        for module, training in modes.items():
            module.training = training
    return count
