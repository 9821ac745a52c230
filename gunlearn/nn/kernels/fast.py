"""PyG's own linear layers as CSR products, bag-of-words features as sparse ones: chosen by itself, layer by layer.

A message that is the sender's row, times a weight at most, and a sum or mean of messages make one sparse product.
Inside `fast_path(model)` the layers of `LINEAR` run that way. Scaled messages fold into the stored values; anything
else that is attached (an explainer, hooks on messages, removed edges), and low precision, keep the layer's own
gather-scatter. Weights, `state_dict()` and results (up to rounding) stay the same, and nothing is left behind.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from gunlearn.errors import UnsupportedModelError
from gunlearn.nn.attach.overrides import AfterLayer, Override, ScaledMessage, ScaledPropagate
from gunlearn.nn.kernels.memo import memo
from gunlearn.nn.kernels.sparse import (
    KERNEL_DTYPES,
    SparseMatrix,
    kernels_enabled,
    known_sparse,
    lexsort,
    sparse_matrix,
)
from gunlearn.nn.layers.influence_conv import InfluenceAwareConv, needs_messages

#: Layers whose messages are linear in the senders' rows, with the linear maps that come right after (or nothing).
LINEAR: dict[type, str] = {
    pyg.GCNConv: "", pyg.SAGEConv: "lin_l", pyg.GINConv: "nn", pyg.SGConv: "lin", pyg.APPNP: "",
    pyg.GraphConv: "lin_rel", pyg.TAGConv: "lins", pyg.LGConv: "", pyg.GCN2Conv: "", pyg.SSGConv: "",
}  # fmt: skip
LINEAR_MAPS = (nn.Linear, pyg.Linear)

_PATHS: WeakKeyDictionary[nn.Module, _Paths] = WeakKeyDictionary()


class _Paths:
    """Which way each layer of a model went in its last pass."""

    def __init__(self) -> None:
        self.fused: dict[str, str] = {}
        self.plain: dict[str, str] = {}
        self.sparse_features = False


def path_of(model: nn.Module) -> str | None:
    """One line: how the last pass of `model` inside `fast_path` ran; `None` before the first.

    Example:
        >>> import torch
        >>> from torch_geometric.nn import GCNConv
        >>> conv = GCNConv(2, 3)
        >>> with fast_path(conv):
        ...     out = conv(torch.randn(3, 2), torch.tensor([[0, 1], [1, 2]]))
        >>> path_of(conv)
        'CSR products in 1 of 1 layers'
    """
    paths = _PATHS.get(model)
    if paths is None:
        return None
    number = len(paths.fused) + len(paths.plain)
    parts = [f"CSR products in {len(paths.fused)} of {number} layers"] if paths.fused else []
    if paths.plain:
        reasons = ", ".join(dict.fromkeys(paths.plain.values()))
        parts.append(f"gather-scatter in {len(paths.plain)} of {number} layers ({reasons})")
    if paths.sparse_features:
        parts.append("sparse features")
    return "; ".join(parts) or "as compiled, or without message passing"


@contextmanager
def fast_path(model: nn.Module) -> Iterator[nn.Module]:
    """Inside the block the model's own PyG layers run as CSR products where their messages allow it.

    Results equal those outside up to rounding, gradients included. What was built for a graph (normalisation, CSR) is
    remembered with its `edge_index` tensor. A layer that cannot be fused runs as it is; `path_of(model)` says which.

    Args:
        model: any module; without PyG layers nothing happens.

    Yields:
        The same model.
    """
    paths = _PATHS[model] = _Paths()
    overrides: list[Override] = []
    native: dict[str, InfluenceAwareConv] = {}  # these fuse by themselves, and tell
    if not hasattr(model, "_orig_mod"):  # a compiled model runs its own kernels: leave it whole
        for name, module in model.named_modules():
            if type(module) in LINEAR_MAPS and kernels_enabled():
                overrides.append(SparseLinear(module, name, paths))
            elif type(module) in LINEAR and kernels_enabled():
                overrides.append(FusedPropagate(module, name, paths))
                overrides.append(FusedForward(module, name, paths, overrides[-1]))
            elif isinstance(module, InfluenceAwareConv):
                native[name], module.ran = module, None
            elif isinstance(module, MessagePassing):
                overrides.append(Watched(module, name, paths))
    installed: list[Override] = []
    try:
        for override in overrides:
            override.install()
            installed.append(override)
        yield model
    finally:
        for override in reversed(installed):
            override.uninstall()
        for name, layer in native.items():
            if layer.ran is not None:
                (paths.plain if layer.ran == "plain" else paths.fused)[name] = type(layer).__name__
                paths.sparse_features |= layer.ran == "csr sparse"


@dataclass(frozen=True)
class Propagated:
    """`sum_k c_k A_k X` with sparse features `X`, not yet computed: a linear map that follows goes first.

    Args:
        features: `X`, `[num_nodes, num_features]`.
        terms: pairs of coefficient and the matrices applied to `X`, first one first.
    """

    features: SparseMatrix
    terms: tuple[tuple[Any, tuple[SparseMatrix, ...]], ...]

    def linear(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """`(sum_k c_k A_k X) weight^T + bias`, computed as `sum_k c_k A_k (X weight^T) + bias`."""
        h, out = self.features @ weight.t(), None
        for coefficient, matrices in self.terms:
            term = h
            for matrix in matrices:
                term = matrix @ term
            term = term if isinstance(coefficient, float) and coefficient == 1.0 else coefficient * term
            out = term if out is None else out + term
        return out if bias is None else out + bias

    def size(self, dim: int) -> int:
        """Size of the matrix that this stands for."""
        last = self.terms[0][1]
        return self.features.shape[1] if dim in (1, -1) else (last[-1] if last else self.features).shape[0]


class _Recorded(Override):
    def __init__(self, layer: nn.Module, name: str, paths: _Paths) -> None:
        super().__init__(layer, name)
        self.paths = paths

    def record(self, reason: str | None) -> None:
        """The layer ran fused (`None`), or plain for a reason."""
        kind = type(self.layer).__name__
        if reason is None and self.name not in self.paths.plain:
            self.paths.fused[self.name] = kind
        elif reason is not None:
            self.paths.fused.pop(self.name, None)
            self.paths.plain[self.name] = f"{kind}: {reason}" if reason else kind


class Watched(_Recorded):
    """Records the passes of a layer that cannot be fused."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer."""
        self.record("")
        return self.original(*args, **kwargs)


class SparseLinear(_Recorded):
    """`forward` of a linear map, for features that are known to be sparse."""

    def __call__(self, x: Any) -> Tensor:
        """`x weight^T + bias`."""
        weight, bias = self.layer.weight, self.layer.bias
        if isinstance(x, Propagated):
            self.paths.sparse_features = True
            return x.linear(weight, bias)
        features = known_sparse(x)
        if features is None or features.matrix.dtype != weight.dtype or not kernels_enabled():
            return self.original(x)
        self.paths.sparse_features = True
        out = features @ weight.t()
        return out if bias is None else out.add_(bias)


class FusedForward(_Recorded):
    """`forward` of a layer: remembers the graph it was called on, and its normalisation."""

    def __init__(self, layer: MessagePassing, name: str, paths: _Paths, propagate: FusedPropagate) -> None:
        super().__init__(layer, name, paths)
        self.propagate = propagate
        self.names = tuple(inspect.signature(type(layer).forward).parameters)[1:]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer."""
        bound = dict(zip(self.names, args, strict=False)) | kwargs
        x, edge_index, edge_weight = (bound.get(k) for k in ("x", "edge_index", "edge_weight"))
        top = self.previous
        while isinstance(top, AfterLayer):
            top = top.previous
        # What lies below may change the graph from call to call (removed edges), and so may dropout on edges.
        layer, self.propagate.anchor = self.layer, None
        dropped = type(layer) is pyg.APPNP and layer.dropout > 0 and layer.training
        # A layer that caches a graph of its own may not be on this one.
        dropped |= bool(getattr(layer, "cached", False))
        if top is None and not dropped and _is_plain(edge_index) and self.propagate.why_not() is None:
            self.propagate.anchor = edge_index, edge_weight
            if type(layer) is pyg.GINConv and self.previous is None:
                features = known_sparse(x)
                matrix = None if features is None else self.propagate.adjacency(edge_index, (x, x), None, None)
                first = first_linear(layer.nn)
                if matrix is not None and first is not None and _is_ours(first):
                    self.record(None)
                    return layer.nn(Propagated(features, ((1.0, (matrix,)), (1 + layer.eps, ()))))
            if self._lends_norm(x, edge_weight):
                return self._with_norm(x, edge_index, edge_weight, args, kwargs)
        return self.original(*args, **kwargs)

    def _lends_norm(self, x: Any, edge_weight: Tensor | None) -> bool:
        layer = self.layer
        return (
            type(layer) in (pyg.GCNConv, pyg.APPNP, pyg.GCN2Conv)
            and layer.normalize
            and not layer.cached
            and layer._cached_edge_index is None
            and isinstance(x, Tensor)
            and (edge_weight is None or not edge_weight.requires_grad)
        )

    def _with_norm(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None, args: tuple, kwargs: dict) -> Any:
        """Lend the layer its normalised graph, where a layer with `cached=True` keeps it; taken back after the call."""
        layer = self.layer
        settings = getattr(layer, "improved", False), layer.add_self_loops, layer.flow

        def norm() -> tuple[Tensor, Tensor]:
            index, weight = gcn_norm(edge_index, edge_weight, x.size(layer.node_dim), *settings, x.dtype)
            return index.clone() if index is edge_index else index, weight  # must not keep its own key alive

        tag = ("gcn_norm", x.size(layer.node_dim), *settings, x.dtype)
        graph = _memo(edge_index, edge_weight, tag, norm)
        self.propagate.anchor = graph
        layer._cached_edge_index = graph
        try:
            return self.original(*args, **kwargs)
        finally:
            layer._cached_edge_index = None


class FusedPropagate(_Recorded):
    """`propagate` of a layer as a product with its adjacency."""

    method = "propagate"

    def __init__(self, layer: MessagePassing, name: str, paths: _Paths) -> None:
        super().__init__(layer, name, paths)
        self.anchor: tuple[Tensor, Tensor | None] | None = None  # tensors that outlive the call, to remember things by

    def why_not(self) -> str | None:
        """Why this layer cannot be fused as it is now; `None` if it can."""
        layer = self.layer
        if layer.aggr not in ("add", "sum", "mean"):
            return f"aggr={layer.aggr!r}"
        if needs_messages(layer):
            return "hooks or an explainer"
        if layer.node_dim != -2 or getattr(layer, "_decomposed_layers", 1) not in (None, 1):
            return "decomposed"
        if _scales(self.previous, layer) is None:
            return "an attached 'propagate' or 'message'"
        if torch.is_autocast_enabled() or torch.compiler.is_compiling() or not kernels_enabled():
            return "autocast, compiler or function transform"
        return None

    def __call__(self, edge_index: Any, *args: Any, **kwargs: Any) -> Any:
        """Sum or mean of the messages to each node `[num_nodes, dim]`."""
        reason, size, x = self.why_not(), kwargs.get("size"), kwargs.get("x")
        sender = x[0] if isinstance(x, tuple | list) else x
        known = {"x", "edge_weight", "size"}
        if reason is None and (args or not set(kwargs) <= known or not _is_plain(edge_index)):
            reason = "another kind of graph or argument"
        if reason is None and not isinstance(sender, Propagated):
            dense = isinstance(sender, Tensor) and sender.dim() == 2 and sender.dtype in KERNEL_DTYPES
            reason = None if dense else "precision"
        if reason is not None:
            self.record(reason)
            if isinstance(sender, Tensor) and sender.layout != torch.strided:
                raise UnsupportedModelError(
                    f"Expected dense features for layer '{self.name}' ({type(self.layer).__name__}: {reason}) "
                    f"(got {sender.layout}); pass x.to_dense()"
                )
            return self.original(edge_index, *args, **kwargs)
        matrix = self.adjacency(edge_index, x, kwargs.get("edge_weight"), size)
        self.record(None)
        if isinstance(sender, Propagated):
            return replace(sender, terms=tuple((c, (*matrices, matrix)) for c, matrices in sender.terms))
        features = known_sparse(sender)
        if features is not None and features.matrix.dtype == matrix.matrix.dtype and self._followed_by_linear():
            return Propagated(features, ((1.0, (matrix,)),))
        if sender.layout != torch.strided:
            raise UnsupportedModelError(
                f"Expected dense features for layer '{self.name}' ({type(self.layer).__name__}) (got {sender.layout}); "
                "pass x.to_dense()"
            )
        return matrix @ sender

    def _followed_by_linear(self) -> bool:
        """Whether all that the layer does next with the result is a linear map that we stand in for."""
        attribute = LINEAR[type(self.layer)]
        if attribute in ("", "nn") or getattr(self.layer, "cached", False):  # what is cached must be a tensor
            return False
        maps = getattr(self.layer, attribute)
        return all(_is_ours(m) for m in (maps if isinstance(maps, nn.ModuleList) else [maps]))

    def adjacency(self, edge_index: Tensor, x: Any, edge_weight: Tensor | None, size: Any) -> SparseMatrix:
        """The matrix `[num_targets, num_senders]` of this layer on this graph, scales of messages folded in."""
        layer = self.layer
        sender, target = x if isinstance(x, tuple | list) else (x, x)
        shape = (sender.size(0), sender.size(0) if target is None else target.size(0))
        shape = shape if size is None else tuple(a if b is None else b for a, b in zip(shape, size, strict=True))
        if layer.flow == "source_to_target":
            shape, (col, row) = shape[::-1], edge_index
        else:
            row, col = edge_index
        dtype = sender.features.matrix.dtype if isinstance(sender, Propagated) else sender.dtype
        mean, scales = layer.aggr == "mean", _scales(self.previous, layer)
        learned = any(t is not None and t.requires_grad for t in (edge_weight, *(scaled.scale for scaled in scales)))

        def values() -> Tensor:
            value = torch.ones(row.numel(), dtype=dtype, device=row.device)
            value = value if edge_weight is None else value * edge_weight.view(-1).to(dtype)
            for scaled in scales:
                value = value * scaled._scale_of(edge_index).to(dtype)
            if mean:
                count = torch.zeros(shape[0], dtype=dtype, device=row.device)
                count.index_add_(0, row, torch.ones_like(value))
                value = value / count.clamp_(min=1)[row]
            return value

        anchor, anchor_weight = self.anchor or (edge_index, edge_weight)
        settings = tuple(getattr(layer, k, None) for k in ("improved", "add_self_loops", "normalize", "flow"))
        tag = ("fast", type(layer).__name__, settings, mean, shape, dtype, anchor is edge_index)
        if learned:
            places, order = _memo(anchor, None, (*tag, "places"), lambda: _places(row, col, dtype, shape))
            return places.with_values(values()[order])
        if len(scales) > 1:
            return sparse_matrix(row, col, values(), shape)
        store = scales[0].folded if scales else None
        return _memo(anchor, anchor_weight, tag, lambda: sparse_matrix(row, col, values().detach(), shape), store)


def _places(row: Tensor, col: Tensor, dtype: torch.dtype, shape: tuple[int, int]) -> tuple[SparseMatrix, Tensor]:
    return sparse_matrix(row, col, torch.ones(row.numel(), dtype=dtype, device=row.device), shape), lexsort(row, col)


def _memo(
    edge_index: Tensor, edge_weight: Tensor | None, tag: Any, build: Any, store: WeakTensorKeyDictionary | None = None
) -> Any:
    """Remember what was built from a graph and, where there are, its weights."""
    options = {} if store is None else {"store": store}
    if edge_weight is None:
        return memo(edge_index, tag, build, **options)
    by_weight = memo(edge_index, (*tag, "by weight"), WeakTensorKeyDictionary, **options)
    return memo(edge_weight, tag, build, by_weight)


def _is_plain(edge_index: Any) -> bool:
    return (
        type(edge_index) is Tensor
        and edge_index.layout == torch.strided
        and edge_index.dtype == torch.int64
        and edge_index.dim() == 2
    )


def _scales(propagate: Any, layer: MessagePassing) -> list[ScaledPropagate] | None:
    """The scales attached to the layer's messages; `None` if something else is attached, too."""
    scales, message = [], layer.__dict__.get("message")
    while isinstance(message, ScaledMessage):
        scales.append(message.propagate)
        message = message.previous
    below = set()
    while isinstance(propagate, ScaledPropagate):
        below.add(id(propagate))
        propagate = propagate.previous
    # Each scale belongs to a `propagate` below ours, or to one above it, which is at work right now.
    known = all(id(scaled) in below or scaled.current is not None for scaled in scales)
    return scales if propagate is None and message is None and known and len(below) <= len(scales) else None


def _is_ours(module: nn.Module) -> bool:
    return (
        type(module) in LINEAR_MAPS
        and isinstance(module.__dict__.get("forward"), SparseLinear)
        and not module._forward_hooks
        and not module._forward_pre_hooks
    )


def first_linear(module: nn.Module) -> nn.Module | None:
    """The linear map that a network applies to its input before anything else."""
    if type(module) is nn.Sequential and len(module):
        return first_linear(module[0])
    if type(module) is pyg.MLP and len(module.lins):
        return first_linear(module.lins[0])
    return module if type(module) in LINEAR_MAPS else None
