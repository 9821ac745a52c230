"""Models that the command line trains."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn
from torch_geometric.nn.inits import reset

from gunlearn.errors import InvalidInputError
from gunlearn.nn.kernels.bag_of_words import sparse_features
from gunlearn.nn.layers.influence_conv import InfluenceAwareConv


class _Backbone(nn.Module):
    def reset_parameters(self) -> None:
        """Draw new weights."""
        for child in self.children():
            reset(child)


class GCN(_Backbone):
    """Graph convolutions with ReLU between them, the encoder of the edge-unlearning literature (128-64).

    Args:
        num_layers: number of convolutions.
        dropout: probability, after each ReLU, only in training.

    Raises:
        InvalidInputError: no layer, or a dropout outside [0, 1].

    Shapes: `x` `[num_nodes, in_channels]`, `edge_index` `[2, num_edges]`; output `[num_nodes, out_channels]`.
    Bag-of-words features run as a sparse product.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int = 128,
        out_channels: int = 64,
        num_layers: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if num_layers < 1 or not 0 <= dropout <= 1:
            raise InvalidInputError(
                f"Expected num_layers >= 1 and dropout in [0, 1] (got num_layers={num_layers}, dropout={dropout})"
            )
        sizes = [in_channels, *[hidden_channels] * (num_layers - 1), out_channels]
        self.convs = nn.ModuleList(InfluenceAwareConv(a, b) for a, b in pairwise(sizes))
        self.dropout = dropout

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        h = sparse_features(x) or x
        for conv in self.convs[:-1]:
            h = conv(h, edge_index, edge_weight)
            h = h.relu_() if conv.fresh and not torch.compiler.is_compiling() else h.relu()
            if self.dropout:
                h = torch.dropout(h, self.dropout, self.training)
        return self.convs[-1](h, edge_index, edge_weight)


class APPNPNet(_Backbone):
    """A perceptron followed by personalised PageRank (arXiv 1810.05997), PyG's `APPNP`; see `GCN` for the rest.

    Args:
        num_layers: linear maps of the perceptron, with ReLU between them.
        K: steps of propagation.
        alpha: probability of going back to the perceptron's output.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int = 2,
        dropout: float = 0.0,
        K: int = 10,
        alpha: float = 0.1,
    ) -> None:
        super().__init__()
        sizes = [in_channels, *[hidden_channels] * (num_layers - 1), out_channels]
        self.lins = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.propagation = pyg.APPNP(K, alpha)
        self.dropout = dropout

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        for lin in self.lins[:-1]:
            x = torch.dropout(lin(x).relu(), self.dropout, self.training)
        return self.propagation(self.lins[-1](x), edge_index, edge_weight)


class GCNIINet(_Backbone):
    """Deep graph convolutions with initial residual and identity mapping (arXiv 2007.02133), PyG's `GCN2Conv`.

    Other arguments and shapes: see `GCN`.

    Args:
        num_layers: convolutions, after a first and before a last linear map.
        alpha: share of the first hidden layer in each.
        theta: strength of the weights; layer `l` has `beta = log(theta / l + 1)`.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int = 2,
        dropout: float = 0.0,
        alpha: float = 0.1,
        theta: float = 0.5,
    ) -> None:
        super().__init__()
        self.first = nn.Linear(in_channels, hidden_channels)
        layers = range(1, num_layers + 1)
        self.convs = nn.ModuleList(pyg.GCN2Conv(hidden_channels, alpha, theta, layer) for layer in layers)
        self.last = nn.Linear(hidden_channels, out_channels)
        self.dropout = dropout

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        h = start = torch.dropout(self.first(x).relu(), self.dropout, self.training)
        for conv in self.convs:
            h = torch.dropout(conv(h, start, edge_index, edge_weight).relu(), self.dropout, self.training)
        return self.last(h)


class MeanPooled(nn.Module):
    """The mean over each graph of what a model returns for its nodes, `[num_graphs, out_channels]`.

    Args:
        model: called as `model(x, edge_index)`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def reset_parameters(self) -> None:
        """Draw new weights."""
        reset(self.model)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor, batch_size: int | None = None) -> Tensor:
        return pyg.global_mean_pool(self.model(x, edge_index), batch, batch_size)


def _sgc(in_channels: int, hidden_channels: int, out_channels: int, num_layers: int, **options: Any) -> nn.Module:
    return pyg.SGConv(in_channels, out_channels, K=num_layers, **options)


#: Models by name, built by `backbone`.
BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "gcn": GCN,
    "sage": pyg.GraphSAGE,
    "gat": pyg.GAT,
    "gin": pyg.GIN,
    "sgc": _sgc,
    "appnp": APPNPNet,
    "gcnii": GCNIINet,
}


def backbone(
    name: str, in_channels: int, hidden_channels: int, out_channels: int, num_layers: int = 2, **options: Any
) -> nn.Module:
    """Return a new model of the graph unlearning literature, called as `model(x, edge_index)`.

    `"gcn"` is `GCN`; `"sage"`, `"gat"` and `"gin"` are PyG's models, with ReLU between layers; `"sgc"` is a linear map
    of features propagated `num_layers` times (without a hidden layer); `"appnp"` and `"gcnii"` are `APPNPNet` and
    `GCNIINet`. With CSR features call them through tasks (`unlearn`, `train`, ...).

    Args:
        name: one of `BACKBONES`.
        in_channels: number of input features.
        hidden_channels: size of the hidden layers.
        out_channels: size of a row of the output.
        num_layers: number of convolutions (of `"sgc"` propagations, of `"appnp"` linear maps).
        **options: of the model, such as `dropout` (all but `"sgc"`), `heads` (`"gat"`), `aggr` (`"sage"`).

    Raises:
        InvalidInputError: an unknown name or option, or a size below 1.

    Example:
        >>> backbone("gat", 16, 8, 4, heads=2)
        GAT(16, 4, num_layers=2)
    """
    if name not in BACKBONES:
        raise InvalidInputError(f"Expected a backbone among {sorted(BACKBONES)} (got {name!r})")
    sizes = {"in_channels": in_channels, "hidden_channels": hidden_channels, "out_channels": out_channels}
    sizes["num_layers"] = num_layers
    if min(sizes.values()) < 1 or not 0 <= options.get("dropout", 0) <= 1:
        raise InvalidInputError(f"Expected sizes >= 1 and dropout in [0, 1] (got {sizes | options})")
    try:
        return BACKBONES[name](**sizes, **options)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"Expected options that '{name}' takes (got {options}: {error})") from error
