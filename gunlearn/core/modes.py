"""Training and evaluation mode of a model's modules."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


def keeps_statistics(layer: nn.Module) -> bool:
    """Return whether a layer normalises by running statistics that stay: it has weights, and none of them learns.

    As batch normalisation in a frozen encoder. A layer without weights of its own says nothing, and moves them.
    """
    learns = [parameter.requires_grad for parameter in layer.parameters(recurse=False)]
    return isinstance(getattr(layer, "running_mean", None), Tensor) and bool(learns) and not any(learns)


def set_training(model: nn.Module, mode: bool = True) -> nn.Module:
    """Set training mode (or evaluation mode), but for layers that keep their running statistics; return the model."""
    model.train(mode)
    for layer in model.modules() if mode else ():
        if keeps_statistics(layer):
            layer.eval()
    return model


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put all modules into evaluation mode for the length of a block, then each back into its own mode."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
