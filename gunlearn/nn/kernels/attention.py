"""GAT's weighted sums as products with sparse matrices of attention coefficients, one per head."""

from __future__ import annotations

from typing import Any

import torch
import torch_geometric.nn as pyg
from torch import Tensor
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import add_self_loops, remove_self_loops

from gunlearn.nn.attach.overrides import attached_scales
from gunlearn.nn.kernels.fused import OnGraph, is_plain, reason_to_gather
from gunlearn.nn.kernels.memo import memo
from gunlearn.nn.kernels.paths import Paths, Recorded
from gunlearn.nn.kernels.sparse import SparseMatrix, csr_tensor, multiply, pattern_of, sddmm
from gunlearn.nn.kernels.switch import KERNEL_DTYPES

#: Layers whose messages are the senders' rows times one coefficient per head, which `edge_update` computes before.
ATTENTION = (pyg.GATConv, pyg.GATv2Conv)


class AttentionForward(OnGraph):
    """`forward` of an attention layer: keeps the graph with self-loops, so that `propagate` knows it again."""

    propagate: AttentionPropagate

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        bound = {"edge_index": None} | dict(zip(self.names, args, strict=False)) | kwargs
        layer, edge_index = self.layer, bound["edge_index"]
        # Whoever gets the coefficients may edit them.
        others = any(value is not None for name, value in bound.items() if name not in ("x", "edge_index"))
        # Unknown, too many, or one given twice: the layer itself raises.
        others |= not bound.keys() <= {*self.names} or len(args) + len(kwargs) > len(bound)
        known = not self.may_be_changed and not others and isinstance(bound.get("x"), Tensor) and is_plain(edge_index)
        self.propagate.graph = None
        if not known or self.propagate.why_not() is not None:
            return self.original(*args, **kwargs)
        if not layer.add_self_loops:
            self.propagate.graph = edge_index
            return self.original(*args, **kwargs)
        number = bound["x"].size(0)
        looped = memo(edge_index, ("with self-loops", number), lambda: _with_loops(edge_index, number))
        self.propagate.graph = looped
        layer.add_self_loops = False
        try:
            return self.original(bound["x"], looped)
        finally:
            layer.add_self_loops = True


class AttentionPropagate(Recorded):
    """`propagate` of an attention layer: for each head a product with the matrix of its coefficients."""

    method = "propagate"
    layer: MessagePassing

    def __init__(self, layer: MessagePassing, name: str, paths: Paths) -> None:
        super().__init__(layer, name, paths)
        self.graph: Tensor | None = None  # a tensor that outlives the call, as a key of the memo

    def why_not(self) -> str | None:
        """Return why this layer cannot be fused at present; `None` if it can."""
        layer = self.layer
        if layer.aggr not in ("add", "sum"):
            return f"aggr={layer.aggr!r}"
        return reason_to_gather(layer, layer.node_dim == 0, attached_scales(self.previous, layer) != [])

    def __call__(self, edge_index: Any, *args: Any, **kwargs: Any) -> Any:
        x: Any
        alpha: Any
        reason, x, alpha = self.why_not(), kwargs.get("x"), kwargs.get("alpha")
        sender = x[0] if isinstance(x, tuple) else x
        if reason is None and (args or edge_index is not self.graph):
            reason = "another kind of graph or argument"
        if reason is None and (sender.dtype not in KERNEL_DTYPES or alpha.dtype != sender.dtype):
            reason = "precision"
        self.record(reason)
        if reason is not None:
            return self.original(edge_index, *args, **kwargs)
        number, flow = sender.size(0), self.layer.flow
        pattern, order = memo(edge_index, ("attention", number, flow), lambda: _places(edge_index, number, flow))
        return _WeightedSum.apply(alpha.index_select(0, order), sender, pattern)


def _with_loops(edge_index: Tensor, number: int) -> Tensor:
    return add_self_loops(remove_self_loops(edge_index)[0], num_nodes=number)[0]


def _places(edge_index: Tensor, number: int, flow: str) -> tuple[SparseMatrix, Tensor]:
    """The places of a matrix `[targets, senders]`, and the edges in their order."""
    col, row = edge_index if flow == "source_to_target" else edge_index.flip(0)
    return pattern_of(row, col, (number, number))


class _WeightedSum(torch.autograd.Function):
    """For each head, the sum of the senders' rows `[num_nodes, heads, dim]` by values `[num_edges, heads]`."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, x: Tensor, pattern: SparseMatrix) -> Tensor:
        ctx.save_for_backward(values, x)
        ctx.pattern = pattern
        return _each_head(pattern.matrix, values, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (values, x), pattern = ctx.saved_tensors, ctx.pattern
        by_values = by_x = None
        if torch.is_grad_enabled():  # create_graph=True: as the layer itself does it
            row, col = pattern.rows, pattern.matrix.col_indices()
            by_values = (grad[row] * x[col]).sum(dim=-1)
            return by_values, torch.zeros_like(x).index_add(0, col, values.unsqueeze(-1) * grad[row]), None
        if ctx.needs_input_grad[0]:
            pairs = zip(_heads(grad), _heads(x), strict=True)
            by_values = torch.stack([sddmm(pattern.matrix, *pair) for pair in pairs], dim=1)
        if ctx.needs_input_grad[1]:
            by_x = _each_head(pattern.transpose, values.index_select(0, pattern.transposed_order), grad)
        return by_values, by_x, None


def _each_head(pattern: Tensor, values: Tensor, x: Tensor) -> Tensor:
    parts = pattern.crow_indices(), pattern.col_indices()
    pairs = zip(values.t().contiguous(), _heads(x), strict=True)
    return torch.stack([multiply(csr_tensor(*parts, own, pattern.shape), of) for own, of in pairs], dim=1)


def _heads(x: Tensor) -> list[Tensor]:
    """Each head's rows, `[num_nodes, dim]`."""
    return [head.contiguous() for head in x.unbind(1)]
