"""PyG's linear layers as products with their adjacency: the `forward` and `propagate` of `fast_path`."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from gunlearn.errors import UnsupportedModelError
from gunlearn.nn.attach.overrides import AfterLayer, attached_scales
from gunlearn.nn.kernels.memo import memo
from gunlearn.nn.kernels.paths import Paths, Recorded
from gunlearn.nn.kernels.sparse import SparseMatrix, pattern_of, sparse_matrix
from gunlearn.nn.kernels.sparse_linear import Propagated, before_linear, first_linear
from gunlearn.nn.kernels.switch import KERNEL_DTYPES, kernels_enabled
from gunlearn.nn.layers.influence_conv import needs_messages

#: Layers whose messages are linear in the senders' rows, and the attribute with the linear maps that follow (or "").
LINEAR: dict[type, str] = {
    pyg.GCNConv: "", pyg.SAGEConv: "lin_l", pyg.GINConv: "nn", pyg.SGConv: "lin", pyg.APPNP: "",
    pyg.GraphConv: "lin_rel", pyg.TAGConv: "lins", pyg.LGConv: "", pyg.GCN2Conv: "", pyg.SSGConv: "",
}  # fmt: skip


class OnGraph(Recorded):
    """`forward` of a layer, which tells the layer's `propagate` what graph it was called on."""

    layer: MessagePassing

    def __init__(self, layer: MessagePassing, name: str, paths: Paths, propagate: Recorded) -> None:
        super().__init__(layer, name, paths)
        self.propagate = propagate
        self.names = tuple(inspect.signature(type(layer).forward).parameters)[1:]

    @property
    def may_be_changed(self) -> bool:
        """Whether an override below this one may change the graph from call to call (removed edges)."""
        below = self.previous
        while isinstance(below, AfterLayer):
            below = below.previous
        return below is not None


class FusedForward(OnGraph):
    """`forward` of a layer: remembers the graph it was called on, and its normalisation."""

    propagate: FusedPropagate

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        bound = dict(zip(self.names, args, strict=False)) | kwargs
        x: Any
        edge_index: Any
        x, edge_index, edge_weight = (bound.get(k) for k in ("x", "edge_index", "edge_weight"))
        # Overrides may change the graph from call to call, and so may edge dropout.
        layer, self.propagate.anchor = self.layer, None
        dropout = type(layer) is pyg.APPNP and layer.dropout > 0 and layer.training
        # A layer with a cache may work on another graph than this one.
        changing = self.may_be_changed or dropout or getattr(layer, "cached", False)
        if not changing and is_plain(edge_index) and self.propagate.why_not() is None:
            self.propagate.anchor = edge_index, edge_weight
            first = first_linear(layer.nn) if type(layer) is pyg.GINConv and self.previous is None else None
            features = None if first is None else before_linear(x, [first])
            if features is not None:
                self.record(None)
                matrix = self.propagate.adjacency(edge_index, (x, x), None, None)
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
        """Run the layer with its normalised graph in the `cached=True` cache, which is emptied after the call."""
        layer = self.layer
        settings = getattr(layer, "improved", False), layer.add_self_loops, layer.flow

        def norm() -> tuple[Tensor, Tensor]:
            index, weight = gcn_norm(edge_index, edge_weight, x.size(layer.node_dim), *settings, x.dtype)
            return index.clone() if index is edge_index else index, weight  # a value must not keep its own key alive

        tag = ("gcn_norm", x.size(layer.node_dim), *settings, x.dtype)
        graph = memo((edge_index, edge_weight), tag, norm)
        self.propagate.anchor = graph
        layer._cached_edge_index = graph
        try:
            return self.original(*args, **kwargs)
        finally:
            layer._cached_edge_index = None


class FusedPropagate(Recorded):
    """`propagate` of a layer as a product with its adjacency."""

    method = "propagate"
    layer: MessagePassing

    def __init__(self, layer: MessagePassing, name: str, paths: Paths) -> None:
        super().__init__(layer, name, paths)
        self.anchor: tuple[Tensor, Tensor | None] | None = None  # tensors that outlive the call, as keys of the memo

    def why_not(self) -> str | None:
        """Return why this layer cannot be fused at present; `None` if it can."""
        layer = self.layer
        if layer.aggr not in ("add", "sum", "mean"):
            return f"aggr={layer.aggr!r}"
        attached = attached_scales(self.previous, layer) is None
        return reason_to_gather(layer, layer.node_dim == -2, attached)

    def __call__(self, edge_index: Any, *args: Any, **kwargs: Any) -> Any:
        x: Any
        reason, size, x = self.why_not(), kwargs.get("size"), kwargs.get("x")
        sender = x[0] if isinstance(x, tuple | list) else x
        known = {"x", "edge_weight", "size"}
        if reason is None and (args or not set(kwargs) <= known or not is_plain(edge_index)):
            reason = "another kind of graph or argument"
        if reason is None and not isinstance(sender, Propagated):
            dense = isinstance(sender, Tensor) and sender.dim() == 2 and sender.dtype in KERNEL_DTYPES
            reason = None if dense else "precision"
        if reason is not None:
            self.record(reason)
            self._check_dense(sender, f": {reason}")
            return self.original(edge_index, *args, **kwargs)
        matrix = self.adjacency(edge_index, x, kwargs.get("edge_weight"), size)
        self.record(None)
        if isinstance(sender, Propagated):
            return replace(sender, terms=tuple((c, (*matrices, matrix)) for c, matrices in sender.terms))
        features = before_linear(sender, self._linear_maps())
        if features is not None:
            return Propagated(features, ((1.0, (matrix,)),))
        self._check_dense(sender)
        return matrix @ sender

    def _check_dense(self, x: Any, reason: str = "") -> None:
        if isinstance(x, Tensor) and x.layout != torch.strided:
            raise UnsupportedModelError(
                f"Expected dense features for layer '{self.name}' ({type(self.layer).__name__}{reason}) "
                f"(got {x.layout}); pass x.to_dense()"
            )

    def _linear_maps(self) -> list[nn.Module]:
        """Return the linear maps, one per number of hops, of which one follows; none where something else may."""
        attribute = LINEAR[type(self.layer)]
        if attribute in ("", "nn") or getattr(self.layer, "cached", False):  # a cache must hold a tensor
            return []
        maps = getattr(self.layer, attribute)
        return list(maps) if isinstance(maps, nn.ModuleList) else [maps]

    def adjacency(self, edge_index: Tensor, x: Any, edge_weight: Tensor | None, size: Any) -> SparseMatrix:
        """Return this layer's matrix `[num_targets, num_senders]` on this graph, message scales included."""
        layer = self.layer
        sender, target = x if isinstance(x, tuple | list) else (x, x)
        shape = (sender.size(0), sender.size(0) if target is None else target.size(0))
        shape = shape if size is None else tuple(a if b is None else b for a, b in zip(shape, size, strict=True))
        if layer.flow == "source_to_target":
            shape, (col, row) = shape[::-1], edge_index
        else:
            row, col = edge_index
        dtype = sender.dtype
        mean, scales = layer.aggr == "mean", attached_scales(self.previous, layer) or []
        learned = any(t is not None and t.requires_grad for t in (edge_weight, *(scaled.scale for scaled in scales)))

        def values() -> Tensor:
            value = torch.ones(row.numel(), dtype=dtype, device=row.device)
            value = value if edge_weight is None else value * edge_weight.view(-1).to(dtype)
            for scaled in scales:
                value = value * scaled.scale_of(edge_index).to(dtype)
            if mean:
                count = torch.zeros(shape[0], dtype=dtype, device=row.device)
                count.index_add_(0, row, torch.ones_like(value))
                value = value / count.clamp_(min=1)[row]
            return value

        anchor, weight = self.anchor or (edge_index, edge_weight)
        settings = tuple(getattr(layer, k, None) for k in ("improved", "add_self_loops", "normalize", "flow"))
        tag = ("fast", type(layer).__name__, settings, mean, shape, dtype, anchor is edge_index)
        if learned:
            places, order = memo(anchor, (*tag, "places"), lambda: pattern_of(row, col, shape, dtype))
            return places.with_values(values()[order])
        if len(scales) > 1:
            return sparse_matrix(row, col, values(), shape)
        scale, store = (scales[0].scale, scales[0].folded) if scales else (None, None)
        return memo((anchor, weight, scale), tag, lambda: sparse_matrix(row, col, values().detach(), shape), store)


def reason_to_gather(layer: MessagePassing, known_dim: bool, attached: bool) -> str | None:
    """Return why a layer's messages must be made one by one; `None` if they need not.

    Args:
        layer: the layer.
        known_dim: whether nodes lie in the dimension that the kernel takes them from.
        attached: whether something is attached to its messages that the kernel does not know.
    """
    if needs_messages(layer):
        return "hooks or an explainer"
    if not known_dim or getattr(layer, "_decomposed_layers", 1) not in (None, 1):
        return "decomposed"
    if attached:
        return "an attached 'propagate' or 'message'"
    if torch.is_autocast_enabled() or torch.compiler.is_compiling() or not kernels_enabled():
        return "autocast, compiler or function transform"
    return None


def is_plain(edge_index: Any) -> bool:
    """Return whether a graph is a dense tensor of pairs."""
    return (
        type(edge_index) is Tensor
        and edge_index.layout == torch.strided
        and edge_index.dtype == torch.int64
        and edge_index.dim() == 2
    )
