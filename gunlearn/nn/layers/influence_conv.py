"""A layer with INPO's influence-aware message function."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from gunlearn.errors import InvalidInputError
from gunlearn.nn.attach.contexts import ScaledMessages
from gunlearn.nn.attach.overrides import ScaledPropagate, attached_scales
from gunlearn.nn.kernels.bag_of_words import sparse_features
from gunlearn.nn.kernels.memo import memo
from gunlearn.nn.kernels.shared_product import linear
from gunlearn.nn.kernels.sparse import SparseMatrix, sparse_matrix
from gunlearn.nn.kernels.subgraph import Subgraph
from gunlearn.nn.kernels.switch import KERNEL_DTYPES, kernels_enabled


class InfluenceAwareConv(MessagePassing):
    r"""Graph convolution whose messages can be damped edge by edge ("IMPNN", arXiv 2510.19479).

    .. math:: h_v = \sum_{u \in N(v) \cup \{v\}} c_{uv} \frac{e_{uv}}{\sqrt{d_u d_v}} W x_u + b

    With all scales `c` at 1 it equals PyG's `GCNConv`. INPO sets `c_uv = exp(-(s_u + s_v))` on chosen edges, where `s`
    is the influence of a node; see `influence_scale` and `MessageScale`. Constant scales are folded once into the
    adjacency, so that the layer runs as one CSR product.

    `bias` adds a learned bias, initially zero.

    Shapes: `x` `[num_nodes, in_channels]` (dense, or a `SparseMatrix`), `edge_index` `[2, num_edges]`, `edge_weight`
    `[num_edges]` or `None`; output `[num_nodes, out_channels]`.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(aggr="add")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.lin = nn.Linear(in_channels, out_channels, bias=False)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.ran: str | None = None  # how the last pass went: "csr", "csr sparse" (features) or "plain"

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.lin.reset_parameters()
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor | SparseMatrix, edge_index: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        if isinstance(x, Tensor) and x.layout != torch.strided:
            x = sparse_features(x) or x
        h = linear(x, self.lin)
        if not isinstance(edge_index, Tensor) or edge_index.layout != torch.strided:
            raise InvalidInputError("Expected a plain 'edge_index' of shape [2, num_edges] (got a sparse adjacency)")
        plain = self._needs_plain_path(h, edge_weight)
        if not torch.compiler.is_compiling():
            self.ran = "plain" if plain else "csr sparse" if isinstance(x, SparseMatrix) else "csr"
        if plain:
            index, weight = gcn_norm(edge_index, edge_weight, h.size(0), dtype=h.dtype)
            out = self.propagate(index, x=h, edge_weight=weight.to(h.dtype))
        else:
            out = self._adjacency(edge_index, edge_weight, h.size(0), h.dtype) @ h
        return out if self.bias is None else out.add_(self.bias)  # only we hold the sum: no copy needed

    @property
    def fresh(self) -> bool:
        """Whether the caller alone holds the last output and may change it in place."""
        hooked = self._forward_hooks or self._backward_hooks or self._backward_pre_hooks or "forward" in self.__dict__
        return self.ran is not None and self.ran != "plain" and not hooked

    def message(self, x_j: Tensor, edge_weight: Tensor) -> Tensor:
        return edge_weight.view(-1, 1) * x_j

    def _needs_plain_path(self, h: Tensor, edge_weight: Tensor | None) -> bool:
        """Whether attachments, explainers, compilers, half precision or learned edge weights need explicit messages."""
        scales = self._scales()
        learned = any(t is not None and t.requires_grad for t in (edge_weight, *(s.scale for s in scales or [])))
        low = h.dtype not in KERNEL_DTYPES
        unfit = scales is None or learned or low or torch.compiler.is_compiling()
        return bool(unfit or needs_messages(self) or not kernels_enabled())

    def _scales(self) -> list[ScaledPropagate] | None:
        return attached_scales(self.__dict__.get("propagate"), self)

    def _adjacency(
        self, edge_index: Tensor, edge_weight: Tensor | None, num_nodes: int, dtype: torch.dtype
    ) -> SparseMatrix:
        scales = self._scales() or []

        def build() -> SparseMatrix:
            index, weight = gcn_norm(edge_index, edge_weight, num_nodes, dtype=dtype)
            weight = weight.to(dtype)
            for scaled in scales:
                weight = weight * scaled.scale_of(index).to(dtype)
            return sparse_matrix(index[1], index[0], weight, (num_nodes, num_nodes))

        if edge_weight is not None or len(scales) > 1:
            return build()
        scale, store = (scales[0].scale, scales[0].folded) if scales else (None, None)
        return memo((edge_index, scale), ("gcn", num_nodes, dtype), build, store)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_channels}, {self.out_channels})"


def needs_messages(layer: MessagePassing) -> bool:
    """Return whether an explainer or one of PyG's hooks needs the layer's messages."""
    return bool(layer.explain) or any(
        getattr(layer, name, None)
        for name in ("_message_forward_hooks", "_message_forward_pre_hooks", "_propagate_forward_pre_hooks",
                     "_aggregate_forward_pre_hooks", "_propagate_forward_hooks", "_aggregate_forward_hooks",
                     "_edge_update_forward_hooks", "_edge_update_forward_pre_hooks",
                     "_message_and_aggregate_forward_hooks", "_message_and_aggregate_forward_pre_hooks")
    )  # fmt: skip


def influence_scale(influence: Tensor, edge_index: Tensor) -> Tensor:
    r"""Return the message scale `exp(-(s_u + s_v))` of each edge, `[num_edges]` (INPO, arXiv 2510.19479).

    `influence` is `s`, in [0, 1], `[num_nodes]`; NaN or infinity raise `InvalidInputError`.
    """
    if not torch.isfinite(influence).all():
        raise InvalidInputError("Expected finite influence scores (got NaN or infinity)")
    return torch.exp(-(influence[edge_index[0]] + influence[edge_index[1]]))


class MessageScale(ScaledMessages):
    """`ScaledMessages` with constant scales, which can move to a part of the graph (`on`).

    Args:
        edge_index: the edges to scale, `[2, num_edges]`; a pair `(v, v)` names the self-loop that a layer adds.
        scale: factor of each edge, `[num_edges]`, finite, not negative, a constant; copies of a pair share one.

    Raises:
        InvalidInputError: a scale that is learned, negative or not finite, or differs between copies of a pair.
    """

    def __init__(self, model: nn.Module, edge_index: Tensor, scale: Tensor) -> None:
        if scale.requires_grad:
            raise InvalidInputError("Expected constant message scales (got some that need a gradient)")
        super().__init__(model, edge_index, scale)
        self.model = model

    def on(self, subgraph: Subgraph) -> MessageScale:
        """Return the same scales on a renumbered part of the graph, at a cost proportional to the part."""
        loops = torch.arange(subgraph.n_id.numel(), device=subgraph.n_id.device).expand(2, -1)
        local = torch.cat([subgraph.data.edge_index, loops], dim=1)
        row, found = self.lookup.find(subgraph.n_id[local])
        return MessageScale(self.model, local[:, found], self.lookup.per_pair(self.scale)[row[found]])
