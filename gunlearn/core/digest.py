"""Hashes of content: of tensors, arrays, settings and objects that hold them."""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from enum import Enum
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gunlearn.core.behaviour import code_hash

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_DEEPEST = 8  # levels of objects in objects


def content_hash(value: Any) -> str:
    """Return 64 hex digits that are the same for the same content, in every process: types, shapes, values, order.

    Tensors, arrays, sparse matrices, collections and plain values are read whole; functions by their name and code;
    other objects by their class and attributes.
    """
    digest = hashlib.sha256()
    _add(digest, value, 0)
    return digest.hexdigest()


def state_hash(model: nn.Module) -> str:
    """Return a hash of all weights and buffers by name, those that are not saved included."""
    return content_hash({**dict(model.named_buffers()), **model.state_dict()})


def tensor_digests(model: nn.Module) -> Counter[str]:
    """Return how often each tensor of a model's state occurs in it, by `content_hash`, whatever it is called.

    A model that holds another one whole, under any names, has all of the other's hashes (`<=`).
    """
    return Counter(content_hash(value) for value in model.state_dict().values() if isinstance(value, Tensor))


def same_weights(model: nn.Module, other: nn.Module) -> bool:
    """Return whether two models have the same tensors under the same names, bit for bit."""
    one, two = model.state_dict(), other.state_dict()
    return one.keys() == two.keys() and all(_same(one[name], two[name]) for name in one)


def _same(a: object, b: object) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return type(a) is type(b) and repr(a) == repr(b)
    if a.layout != torch.strided or b.layout != torch.strided:
        return content_hash(a) == content_hash(b)
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b.to(a.device))


def _add(digest: Any, value: Any, depth: int) -> None:
    digest.update(f"<{type(value).__name__}".encode())
    inner = depth + 1
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | torch.dtype | torch.device):
        digest.update(repr(value).encode())
    elif isinstance(value, Tensor):
        _add_tensor(digest, value.detach())
    elif isinstance(value, np.ndarray | np.generic):
        digest.update(f"{value.dtype}{value.shape}".encode())
        if value.dtype == object:
            _add(digest, value.tolist(), inner)
        else:
            digest.update(np.ascontiguousarray(value).tobytes())
    elif depth > _DEEPEST:
        digest.update(b"...")
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            _add(digest, key, inner)
            _add(digest, entry, inner)
    elif isinstance(value, Sequence):
        for entry in value:
            _add(digest, entry, inner)
    elif isinstance(value, Set):
        digest.update("".join(sorted(content_hash(entry) for entry in value)).encode())
    elif isinstance(value, Enum):
        digest.update(value.name.encode())
    elif isinstance(value, partial):
        _add(digest, [value.func, value.args, value.keywords], inner)
    elif isinstance(value, type):
        digest.update(value.__qualname__.encode())
    elif hasattr(value, "__code__") or hasattr(value, "__func__"):
        digest.update(f"{value.__qualname__} {code_hash(value)}".encode())
    elif hasattr(value, "tocsr") or hasattr(value, "csr"):  # sparse matrices of scipy, of torch-sparse
        matrix = value.tocsr() if hasattr(value, "tocsr") else None
        _add(
            digest, value.csr() if matrix is None else [matrix.shape, matrix.indptr, matrix.indices, matrix.data], inner
        )
    elif isinstance(getattr(value, "_fingerprint", None), str):  # a data set of Hugging Face
        digest.update(value._fingerprint.encode())
    elif getattr(value, "__dict__", None):
        _add(digest, vars(value), inner)
    else:
        digest.update(_ADDRESS.sub("", repr(value)).encode())
    digest.update(b">")


def _add_tensor(digest: Any, value: Tensor) -> None:
    digest.update(f"{value.dtype}{tuple(value.shape)}{value.layout}".encode())
    parts: tuple[Tensor, ...] = (value if type(value) is Tensor else value.as_subclass(Tensor),)
    if value.layout == torch.sparse_csr:
        parts = value.crow_indices(), value.col_indices(), value.values()
    elif value.layout == torch.sparse_coo:
        parts = value._indices(), value._values()
    elif value.layout != torch.strided:
        parts = (value.to_dense(),)
    for part in parts:
        plain = part.cpu().contiguous().view(-1)
        digest.update(plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
