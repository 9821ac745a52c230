"""The only module that imports torch-scatter, an optional speed-up that second-order code must not use."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch_geometric.typing
from torch_geometric.utils import scatter  # `dim_size=None` is `index.max() + 1`; unnamed positions get 0

__all__ = ["HAS_TORCH_SCATTER", "scatter", "without_torch_scatter"]

try:
    import torch_scatter  # noqa: F401

    HAS_TORCH_SCATTER = True
except Exception:  # a build against another torch raises OSError, not ImportError
    HAS_TORCH_SCATTER = False


@contextmanager
def without_torch_scatter() -> Iterator[None]:
    """Inside the block PyG uses its pure-torch reductions, as second-order code needs.

    torch-scatter's segment kernels silently drop second-order terms: Hessian-vector products through attention on
    sorted or CSR inputs are wrong. The setting is global to PyG and shared by all threads; it is restored on exit.
    """
    before = torch_geometric.typing.WITH_TORCH_SCATTER
    torch_geometric.typing.WITH_TORCH_SCATTER = False
    try:
        yield
    finally:
        torch_geometric.typing.WITH_TORCH_SCATTER = before
