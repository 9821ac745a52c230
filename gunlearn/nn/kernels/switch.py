"""Whether kernels may run, and the warning for the fallback to torch's own operators."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

KERNEL_DTYPES = (torch.float32, torch.float64)
_ENABLED: ContextVar[bool] = ContextVar("gunlearn_kernels", default=True)


@contextmanager
def plain_path() -> Iterator[None]:
    """Inside the block no kernel runs: layers gather and scatter, dense features stay dense.

    Use it for comparisons, and for code that needs torch's own operators.
    """
    token = _ENABLED.set(False)
    try:
        yield
    finally:
        _ENABLED.reset(token)


def kernels_allowed() -> bool:
    """Return whether the code runs outside `plain_path`."""
    return _ENABLED.get()


def kernels_enabled() -> bool:
    """Return whether kernels may run: not in `plain_path`, nor in `torch.func`, which ignores their gradients."""
    return _ENABLED.get() and not in_transform()


def in_transform() -> bool:
    """Return whether a `torch.func` transform is active."""
    return torch._C._functorch.peek_interpreter_stack() is not None


class PlainPathWarning(UserWarning):
    """A kernel fell back to gather-scatter on plain `edge_index`: exact, but slower."""


def warn_second_order(kernel: str) -> None:
    """Warn that second-order gradients of a kernel take the plain path."""
    warnings.warn(
        f"second-order gradients of {kernel} are computed by gather-scatter on plain edge_index: exact, but slower and "
        "with [num_edges, dim] temporaries",
        PlainPathWarning,
        stacklevel=3,
    )
