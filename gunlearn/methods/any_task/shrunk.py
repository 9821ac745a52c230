"""Shrink trained weights: what memory added to them goes first."""

import torch
from torch import nn


@torch.no_grad()
def shrink(model: nn.Module, factor: float) -> None:
    """Multiply the trained weight matrices of a model by `factor`, in place.

    Gains and biases, parameters of at most one dimension, stay as they are: a norm's gain multiplies the matrix that
    follows it, so that shrinking both would count twice, and a shrunk bias belongs to other inputs than it was learned
    for. Where all of a model's trained parameters have one dimension, nothing else is left, and they are shrunk.

    Args:
        model: parameters that require no gradient stay as they are.
        factor: 1 leaves the weights as they are.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.dim() > 1]
    for parameter in matrices or trained:
        parameter.mul_(factor)
