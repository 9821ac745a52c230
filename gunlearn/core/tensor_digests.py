"""The tensors of a model by what they hold, whatever they are called."""

import hashlib
from collections import Counter

import torch
from torch import Tensor, nn


def tensor_digests(model: nn.Module) -> Counter[str]:
    """Return how often each tensor of a model's state occurs in it, by a hash of type, shape and values.

    A model that holds another one whole, under any names, has all of the other's hashes (`<=`).
    """
    return Counter(_digest(value) for value in model.state_dict().values() if isinstance(value, Tensor))


def same_weights(model: nn.Module, other: nn.Module) -> bool:
    """Return whether two models have the same tensors under the same names, bit for bit."""
    one, two = model.state_dict(), other.state_dict()
    return one.keys() == two.keys() and all(_same(one[name], two[name]) for name in one)


def _same(a: object, b: object) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return type(a) is type(b) and repr(a) == repr(b)
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b.to(a.device))


def _digest(value: Tensor) -> str:
    digest = hashlib.sha256(f"{value.dtype}{tuple(value.shape)}".encode())
    digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
