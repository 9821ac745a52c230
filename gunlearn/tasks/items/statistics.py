"""Running statistics of batch normalisation: which layers have them, and how they are computed anew."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gunlearn.core.modes import evaluating, keeps_statistics
from gunlearn.errors import InvalidInputError
from gunlearn.tasks.parts import Parts

#: What becomes of them while a model unlearns.
STATISTICS = ("frozen", "recalibrated")


def batch_norm_layers(model: nn.Module) -> list[_BatchNorm]:
    """Return the layers with running statistics."""
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return [layer for layer in layers if layer.running_mean is not None]


def moving_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the layers whose running statistics move while the model trains."""
    return [layer for layer in batch_norm_layers(model) if not keeps_statistics(layer)]


def statistics_note(model: nn.Module, moved: str = "") -> dict[str, str]:
    """Return the note on what became of running statistics while a model unlearned; none for a model without.

    Args:
        model: that unlearned.
        moved: by what statistics moved, of layers that learn; empty where none did.
    """
    layers, moving = batch_norm_layers(model), moving_norms(model)
    told = moved or "frozen"
    if moved and len(moving) < len(layers):
        which = f"{len(layers) - len(moving)} of {len(layers)} layers" if moving else "all layers"
        told = f"kept in {which}, whose weights do not learn" + (f"; else {moved}" if moving else "")
    return {"statistics": f"of batch normalisation: {told}"} if layers else {}


@contextmanager
def averaged_anew(layers: Sequence[_BatchNorm]) -> Iterator[Callable[[int], None]]:
    """Forget the running statistics of layers; passes inside the block make them anew.

    Yields a function to call before a pass with the number of its items: passes then count by their sizes. Without a
    call all count alike.
    """
    momenta, total = [layer.momentum for layer in layers], 0

    def weigh(size: int) -> None:
        nonlocal total
        total += size
        for layer in layers:
            layer.momentum = size / total

    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None
        yield weigh
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
    named = model.named_modules()
    layers = [name for name, module in named if isinstance(module, _BatchNorm) and not keeps_statistics(module)]
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
def settle_statistics(
    model: nn.Module, layers: Sequence[_BatchNorm], passes: Iterable[tuple[int, Callable[[], object]]]
) -> int:
    """Replace running statistics by those of passes, weighted by their sizes; return the number of items.

    A running mean is that of all items; a running variance is the mean of those of the passes. Everything but these
    layers runs in evaluation mode, and the modes come back.

    Args:
        model: that the passes call.
        layers: of the model, with running statistics.
        passes: the number of items of each, and what runs it. After the first one, a single item alone is left out: it
            has no variance.
    """
    count = 0
    with evaluating(model), averaged_anew(layers) as weigh:
        for layer in layers:
            layer.train()
        for size, read in passes:
            if size < 2 and count:
                continue
            weigh(size)
            read()
            count += size
    return count


def recalibrate(model: nn.Module, layers: Sequence[_BatchNorm], batches: Iterable[Tensor]) -> int:
    """Replace running statistics by those of batches `[num_items, ...]`; see `settle_statistics`."""
    device = next(model.parameters()).device
    return settle_statistics(model, layers, ((len(x), partial(model, x.to(device))) for x in batches))
