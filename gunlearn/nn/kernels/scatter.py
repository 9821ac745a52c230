"""The one place that knows about torch-scatter: an optional speed-up that second-order code must not touch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch_geometric.typing
from torch import Tensor
from torch_geometric.utils import scatter as _pyg_scatter

try:
    import torch_scatter  # noqa: F401

    HAS_TORCH_SCATTER = True
except Exception:  # a build against another torch raises OSError, not ImportError
    HAS_TORCH_SCATTER = False


def scatter(src: Tensor, index: Tensor, dim: int = 0, dim_size: int | None = None, reduce: str = "sum") -> Tensor:
    """Reduce all values of `src` that share an index, along one dimension.

    `out[i] = reduce of src[e] over e with index[e] == i`; positions that no index names get 0.

    Args:
        src: values, shape `[..., num_items, ...]`.
        index: target position of each item along `dim`, shape `[num_items]`, dtype long.
        dim: the dimension to reduce.
        dim_size: size of the output along `dim`; `index.max() + 1` when `None`.
        reduce: `"sum"`, `"mean"`, `"mul"`, `"min"`, `"max"` or `"any"`.

    Returns:
        Tensor of `src`'s shape with `dim` replaced by `dim_size`.
    """
    return _pyg_scatter(src, index, dim=dim, dim_size=dim_size, reduce=reduce)


@contextmanager
def without_torch_scatter() -> Iterator[None]:
    """Make PyG use its pure-torch reductions inside the block, as second-order code needs.

    torch-scatter's segment kernels drop second-order terms without an error, so Hessian-vector products through
    attention on sorted or CSR inputs are wrong with them. The setting is PyG's own global: it is restored on exit,
    exceptions included, and is shared by all threads of the process.
    """
    before = torch_geometric.typing.WITH_TORCH_SCATTER
    torch_geometric.typing.WITH_TORCH_SCATTER = False
    try:
        yield
    finally:
        torch_geometric.typing.WITH_TORCH_SCATTER = before
