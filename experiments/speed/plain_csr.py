"""The same steps as a careful user of PyG writes them: CSR adjacency, normalised once, and CSR features.

`GCNConv(normalize=False)` on a `torch.sparse_csr` adjacency runs as one sparse product; damped messages are folded into
its values before the first step. Features are CSR where they are sparse enough for that to pay. All else is that of
`plain.PlainINPO`: a pair's score is `(z[u] * z[v]).sum(-1)`, negatives come from PyG, gradients from autograd.
"""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import GCNConv
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.utils import to_torch_csr_tensor

from experiments.speed.plain import PlainINPO

MAX_DENSITY = 0.05  # of features that torch multiplies faster sparse than dense, forward and backward together


class CsrGCN(nn.Module):
    """Names of the parameters are those of `PlainGCN`."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(GCNConv(a, b, normalize=False) for a, b in pairwise(sizes))

    def forward(self, x: Tensor, adj_t: Tensor) -> Tensor:
        for number, conv in enumerate(self.convs):
            x = conv(x if number == 0 else x.relu(), adj_t)
        return x


class CsrINPO(PlainINPO):
    """`PlainINPO` on CSR; its arguments are the same."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        plain, x = self.model, self.graph.x
        self.model = CsrGCN([plain.convs[0].lin.in_features, *(conv.lin.out_features for conv in plain.convs)]).to(x)
        self.model.load_state_dict(plain.state_dict())
        for ours, theirs in zip(self.model.parameters(), plain.parameters(), strict=True):
            ours.grad = theirs.grad  # in paper mode NORA's enters the first step
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), self.settings.lr, weight_decay=self.settings.weight_decay
        )
        with warnings.catch_warnings():  # torch says once that CSR is in beta
            warnings.simplefilter("ignore")
            sparse = int(x.count_nonzero()) <= MAX_DENSITY * x.numel()
            self.x = x.to_sparse_csr() if sparse else x
            self.adjacency = {damped: self._adjacency(damped) for damped in (False, True)}

    def _adjacency(self, damped: bool) -> Tensor:
        num_nodes = self.graph.x.size(0)
        index, weight = gcn_norm(self.edges, None, num_nodes, dtype=self.graph.x.dtype)
        weight = weight * self.scale if damped else weight
        return to_torch_csr_tensor(index.flip(0), weight, (num_nodes, num_nodes))

    def embed(self, damped: bool) -> Tensor:
        if not hasattr(self, "adjacency"):  # references are computed before the first step
            return super().embed(damped)
        return self.model(self.x, self.adjacency[damped])
