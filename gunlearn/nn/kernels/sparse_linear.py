"""Linear maps of sparse or wide features, before or after message passing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn

from gunlearn.nn.kernels.bag_of_words import known_sparse
from gunlearn.nn.kernels.paths import Recorded
from gunlearn.nn.kernels.sparse import SparseMatrix
from gunlearn.nn.kernels.switch import kernels_enabled

LINEAR_MAPS = (nn.Linear, pyg.Linear)


@dataclass(frozen=True)
class Propagated:
    """`sum_k c_k A_k X` for features `X` `[num_nodes, num_features]`, computed after a linear map that follows.

    `terms` are pairs of a coefficient and the matrices applied to `X`, in this order.
    """

    features: SparseMatrix | Tensor
    terms: tuple[tuple[Any, tuple[SparseMatrix, ...]], ...]

    def linear(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return `(sum_k c_k A_k X) weight^T + bias`, computed as `sum_k c_k A_k (X weight^T) + bias`."""
        h, parts = self.features @ weight.t(), []
        for coefficient, matrices in self.terms:
            part = h
            for matrix in matrices:
                part = matrix @ part
            parts.append(part if isinstance(coefficient, float) and coefficient == 1.0 else coefficient * part)
        out = sum(parts[1:], start=parts[0])
        return out if bias is None else out + bias

    @property
    def dtype(self) -> torch.dtype:
        return self.features.matrix.dtype if isinstance(self.features, SparseMatrix) else self.features.dtype

    def size(self, dim: int) -> int:
        """Size of the matrix once computed."""
        last = self.terms[0][1]
        return self.features.shape[1] if dim in (1, -1) else (last[-1] if last else self.features).shape[0]


class SparseLinear(Recorded):
    """`forward` of a linear map, by a sparse product where the features are known to be sparse."""

    layer: nn.Linear | pyg.Linear

    def __call__(self, x: Any) -> Tensor:
        weight, bias = self.layer.weight, self.layer.bias
        if isinstance(x, Propagated):
            self.paths.sparse_features |= isinstance(x.features, SparseMatrix)
            return x.linear(weight, bias)
        features = known_sparse(x)
        if features is None or features.matrix.dtype != weight.dtype or not kernels_enabled():
            return self.original(x)
        self.paths.sparse_features = True
        out = features @ weight.t()
        return out if bias is None else out.add_(bias)


def before_linear(x: object, maps: Sequence[nn.Module]) -> SparseMatrix | Tensor | None:
    """Return features whose linear map is to run before their message passing; `None` where it stays behind it.

    Sparse features are not multiplied by an adjacency, which would fill them; wide ones are when the map has made them
    narrower.

    Args:
        x: features `[num_nodes, num_features]`.
        maps: linear maps, one of which follows the message passing; of several, each reads other numbers of hops.
    """
    if not maps or not all(is_replaced(linear) for linear in maps):
        return None
    weight: Any = maps[0].weight
    features = known_sparse(x)
    if features is not None:
        return features if features.matrix.dtype == weight.dtype else None
    dense = isinstance(x, Tensor) and x.layout == torch.strided and x.dim() == 2 and x.dtype == weight.dtype
    return cast(Tensor, x) if dense and len(maps) == 1 and weight.size(0) < weight.size(1) else None


def first_linear(module: nn.Module) -> nn.Module | None:
    """Return the linear map that a network applies first; `None` if it starts with anything else, or with a hook."""
    if has_hooks(module):
        return None
    if type(module) is nn.Sequential and len(module):
        return first_linear(module[0])
    if type(module) is pyg.MLP and isinstance(module.lins, nn.ModuleList) and len(module.lins):
        return first_linear(module.lins[0])
    return module if type(module) in LINEAR_MAPS else None


def is_replaced(module: nn.Module) -> bool:
    """Return whether a linear map runs as `SparseLinear`, and without hooks."""
    return (
        type(module) in LINEAR_MAPS
        and isinstance(module.__dict__.get("forward"), SparseLinear)
        and not has_hooks(module)
    )


def has_hooks(module: nn.Module) -> bool:
    """Return whether a hook of a module sees its input, or the gradient of that."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
