"""Values derived from a tensor, computed once and freed with the tensor.

Normalised adjacencies and sparse features cost more than one training step. The weak key is the tensor object with its
version counter: an in-place edit or a new tensor recomputes. Models store nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_T = TypeVar("_T")


class Store(WeakTensorKeyDictionary):
    """Storage for values. Its copies and pickles are empty: weak references cannot be copied."""

    def __deepcopy__(self, copied: dict[int, Any]) -> Store:
        return Store()

    def __reduce__(self) -> tuple[type[Store], tuple[()]]:
        return Store, ()


_MEMO = Store()
_FORGETFUL: ContextVar[bool] = ContextVar("values are made anew", default=False)


@contextmanager
def nothing_remembered() -> Iterator[None]:
    """Inside the block values are made anew, so that whoever watches reads sees what they are derived from."""
    token = _FORGETFUL.set(True)
    try:
        yield
    finally:
        _FORGETFUL.reset(token)


def memo(
    source: Tensor | tuple[Tensor | None, ...],
    tag: Any,
    build: Callable[[], _T],
    store: Store | None = None,
) -> _T:
    """Return `build()` for a tensor (or several), from memory if it has not changed since.

    Args:
        source: what the value is derived from. Edits that torch does not count (through `.data` or numpy) are missed.
        tag: hashable; distinguishes values derived from one tensor.
        build: makes the value; it must not keep a strong reference to a source, else the tensor is never freed.
        store: where values are kept; by default one for the whole process.
    """
    if _FORGETFUL.get():
        return build()
    *others, tensor = (t for t in source if t is not None) if isinstance(source, tuple) else (source,)
    for other in others:
        store = memo(other, ("with", tag), Store, store)
    store = _MEMO if store is None else store
    if tensor.is_inference():  # inference tensors have no version counter
        return build()
    version, values = store.get(tensor, (None, None))
    if version != tensor._version:
        values = {}
        store[tensor] = (tensor._version, values)
    if tag not in values:
        values[tag] = _for_autograd(build)
    return values[tag]


def _for_autograd(build: Callable[[], _T]) -> _T:
    """Return `build()`; inside `torch.inference_mode` too as tensors that a later training step may save."""
    if not torch.is_inference_mode_enabled():
        return build()
    with torch.inference_mode(False), torch.no_grad():
        return build()


def remembered(tensor: Tensor, tag: Any) -> Any | None:
    """Return the value that `memo` keeps for `tensor` under `tag`; `None` if not built or the tensor has changed."""
    if tensor.is_inference() or _FORGETFUL.get():
        return None
    version, values = _MEMO.get(tensor, (None, None))
    return values.get(tag) if version == tensor._version else None
