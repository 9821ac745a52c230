"""Models the command line trains; a user brings their own."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from gunlearn.errors import InvalidInputError
from gunlearn.nn.influence_conv import InfluenceAwareConv
from gunlearn.nn.sparse import sparse_features


class GCN(nn.Module):
    """Stack of graph convolutions with ReLU between, the encoder of the edge-unlearning literature (128-64).

    Args:
        in_channels: number of input features.
        hidden_channels: size of the hidden layers.
        out_channels: size of the embeddings.
        num_layers: number of convolutions.
        dropout: probability, after each ReLU, in training alone.

    Raises:
        InvalidInputError: no layer, or a dropout outside [0, 1].

    Shapes: `x` `[num_nodes, in_channels]`, `edge_index` `[2, num_edges]`; output `[num_nodes, out_channels]`.
    Bag-of-words features run through a sparse product by themselves.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int = 128,
        out_channels: int = 64,
        num_layers: int = 2,
        dropout: float = 0.0,
    ) -> None:
        """See the class."""
        super().__init__()
        if num_layers < 1 or not 0 <= dropout <= 1:
            raise InvalidInputError(
                f"Expected num_layers >= 1 and dropout in [0, 1] (got num_layers={num_layers}, dropout={dropout})"
            )
        sizes = [in_channels, *[hidden_channels] * (num_layers - 1), out_channels]
        self.convs = nn.ModuleList(InfluenceAwareConv(a, b) for a, b in pairwise(sizes))
        self.dropout = dropout

    def reset_parameters(self) -> None:
        """Draw new weights."""
        for conv in self.convs:
            conv.reset_parameters()

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        """Node embeddings; see the class for shapes."""
        h = sparse_features(x)
        h = x if h is None else h
        for conv in self.convs[:-1]:
            h = conv(h, edge_index, edge_weight)
            h = h.relu_() if conv.fresh and not torch.compiler.is_compiling() else h.relu()
            if self.dropout:
                h = torch.dropout(h, self.dropout, self.training)
        return self.convs[-1](h, edge_index, edge_weight)
