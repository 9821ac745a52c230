"""One linear map on propagated features, a model with a convex training problem."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch_geometric.nn import Linear, MessagePassing, SGConv
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from gunlearn.errors import InvalidInputError, UnsupportedModelError
from gunlearn.nn.kernels.bag_of_words import known_sparse
from gunlearn.nn.kernels.memo import memo
from gunlearn.nn.kernels.sparse import row_of_entries

HEAD_LOSSES = ("logistic", "least_squares")


class LinearHead(MessagePassing):
    """Logits `sum_l weights[l] S^l X W` with `S` the symmetrically normalised adjacency with self-loops.

    The default is SGC (arXiv 1902.07153); other weights are a generalised PageRank. Train it like any model, or by
    `gunlearn.methods.fit_linear_head`, which solves the convex problem and stores for later certificates, in buffers:
    `lam` (ridge), `alpha` (standard deviation of the perturbation), `perturbation` `[num_classes, in_channels]`, and
    the bound on the training gradient's norm per class, in two parts: `spent` (grows with each request) and `gap` (from
    approximate features, replaced each time). A least-squares head keeps `inverse` `[in_channels, in_channels]` and
    `solution`, its weights in double precision.

    Args:
        K: steps of propagation.
        weights: of each power of `S`, `K + 1` numbers; `None` for `S^K` alone.
        loss: what `fit_linear_head` minimises: `"logistic"` (one against the rest) or `"least_squares"`.
        normalize: first scale rows of `x` to length 1, as certificates require; rows of zeros stay.

    Raises:
        InvalidInputError: wrong sizes, weights or loss.

    Shapes: `x` `[num_nodes, in_channels]`, dense or CSR, `edge_index` `[2, num_edges]`; output
    `[num_nodes, num_classes]`. The map goes before propagation, so that sparse features stay sparse.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        K: int = 2,
        weights: Sequence[float] | None = None,
        loss: str = "logistic",
        normalize: bool = True,
    ) -> None:
        super().__init__(aggr="add")
        if min(in_channels, num_classes) < 1 or K < 0 or loss not in HEAD_LOSSES:
            raise InvalidInputError(
                f"Expected sizes >= 1, K >= 0 and a loss among {HEAD_LOSSES} "
                f"(got {in_channels}, {num_classes}, K={K}, loss={loss!r})"
            )
        if weights is not None and len(weights) != K + 1:
            raise InvalidInputError(f"Expected a weight for each of {K + 1} powers (got {len(weights)})")
        self.hops = tuple(map(float, weights)) if weights is not None else (0.0,) * K + (1.0,)
        self.loss, self.normalize = loss, normalize
        self.lin = nn.Linear(in_channels, num_classes, bias=False)
        shapes = {"lam": (), "alpha": (), "spent": (num_classes,), "gap": (num_classes,)}
        shapes["perturbation"] = (num_classes, in_channels)
        if loss == "least_squares":
            shapes |= {"inverse": (in_channels, in_channels), "solution": (num_classes, in_channels)}
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    def reset_parameters(self) -> None:
        if hasattr(self, "lin"):  # the base class calls this before `lin` exists
            self.lin.reset_parameters()
            for buffer in self.buffers():
                buffer.zero_()

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        weight = self.lin.weight
        if x.dtype != weight.dtype:
            x = x.to(weight.dtype)
        sparse = known_sparse(x)
        h = self.lin(x) if sparse is None else sparse @ weight.t()
        if self.normalize:
            h = h * row_scale(x).to(h.dtype).unsqueeze(-1)
        edge_index, norm = normalised(edge_index, x.size(0), h.dtype)
        out = self.hops[0] * h
        for hop in self.hops[1:]:
            h = self.propagate(edge_index, x=h, edge_weight=norm)
            out = out + hop * h if hop else out
        return out

    def message(self, x_j: Tensor, edge_weight: Tensor) -> Tensor:
        return edge_weight.unsqueeze(-1) * x_j


@dataclass(frozen=True, eq=False)
class HeadView:
    """The parts of a model that is one linear map on propagated features.

    Args:
        lin: the model's linear map.
        hops: weight of each power of `S`.
        normalize: rows of `x` are scaled to length 1.
        record: the model itself if it is a `LinearHead`, with the buffers of its training.
    """

    model: nn.Module
    lin: nn.Linear | Linear
    hops: tuple[float, ...]
    normalize: bool
    record: LinearHead | None = None

    @property
    def weight(self) -> Tensor:
        """Weights in double precision, the bias as the last row: `[in_channels (+ 1), num_classes]`."""
        parts = [self.lin.weight] if self.lin.bias is None else [self.lin.weight, self.lin.bias[:, None]]
        return torch.cat([part.detach().double() for part in parts], dim=1).t().contiguous()

    @torch.no_grad()
    def put(self, weight: Tensor) -> Tensor:
        """Set the weights, `[in_channels (+ 1), num_classes]`; return them rounded to the model's precision."""
        self.lin.weight.copy_(weight[: self.lin.weight.size(1)].t())
        if self.lin.bias is not None:
            self.lin.bias.copy_(weight[-1])
        return self.weight

    @property
    def num_classes(self) -> int:
        return self.lin.weight.size(0)


def head_of(model: nn.Module) -> HeadView:
    """Return the parts of a `LinearHead` or of exactly one `SGConv`; other models raise `UnsupportedModelError`."""
    if isinstance(model, LinearHead):
        return HeadView(model, model.lin, model.hops, model.normalize, model)
    layers = [module for module in model.modules() if isinstance(module, MessagePassing)]
    if len(layers) == 1 and type(layers[0]) is SGConv and layers[0].add_self_loops:
        layer = layers[0]
        others = {id(p) for p in model.parameters()} - {id(p) for p in layer.parameters()}
        if not others:
            return HeadView(model, layer.lin, (0.0,) * layer.K + (1.0,), normalize=False)
    raise UnsupportedModelError(
        "Expected a linear head: a gunlearn.nn.LinearHead, or a model that is one SGConv with self-loops and nothing "
        f"else (got {type(model).__name__})"
    )


def row_scale(x: Tensor) -> Tensor:
    """Return `1 / ||x_i||` of each row of dense or CSR features, 1 for zero rows, in double precision `[num_nodes]`.

    It is kept with `x`; see `row_scale_of`.
    """
    return row_scale_of(x) if x.requires_grad else memo(x, "row_scale", lambda: row_scale_of(x))


def row_scale_of(x: Tensor) -> Tensor:
    """Compute `row_scale` anew: of features that may have been edited in a way that torch does not count."""
    if x.layout == torch.sparse_csr:
        square = x.values().double() ** 2
        length = square.new_zeros(x.size(0)).index_add(0, row_of_entries(x.crow_indices()), square).sqrt()
    else:
        length = torch.linalg.vector_norm(x, dim=1, dtype=torch.float64)
    return torch.where(length > 0, 1 / length, 1.0)


def normalised(edge_index: Tensor, num_nodes: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return edges with self-loops, `[2, num_edges + num_nodes]`, and their weights in `S`."""

    def build() -> tuple[Tensor, Tensor]:
        return gcn_norm(edge_index, None, num_nodes, dtype=dtype)

    return memo(edge_index, ("gcn_norm", num_nodes, dtype), build)
