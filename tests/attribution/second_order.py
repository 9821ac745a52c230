"""Small problems in double precision, and their dense oracles, for the tests of second-order influence."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian
from torch.func import functional_call
from torch.nn.utils import parameters_to_vector
from torch_geometric.data import Data
from torch_geometric.nn import GATConv, GCNConv, GINConv, SAGEConv, SGConv

import gunlearn as gu
from gunlearn.attribution import InfluenceProblem, resolve_items
from gunlearn.losses import Prediction
from gunlearn.tasks import NodeClassification, as_task


class Net(nn.Module):
    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.dropout = first, second, nn.Dropout(0.5)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        # tanh: finite differences must not meet a kink
        return self.second(self.dropout(self.first(x, edge_index).tanh()), edge_index)


class WeightedNet(Net):
    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        h = self.dropout(self.first(x, edge_index, edge_weight).tanh())
        return self.second(h, edge_index, edge_weight)


def _gin(size: int, out: int) -> GINConv:
    return GINConv(nn.Sequential(nn.Linear(size, 4), nn.Tanh(), nn.Linear(4, out)))


NETS = {
    "gcn": lambda size: WeightedNet(GCNConv(size, 4), GCNConv(4, 3)),
    "sage": lambda size: Net(SAGEConv(size, 4), SAGEConv(4, 3)),
    "gat": lambda size: Net(GATConv(size, 2, heads=2), GATConv(4, 3)),
    "gin": lambda size: Net(_gin(size, 4), _gin(4, 3)),
}
TASKS = ("node_classification", "link_prediction")


def net(name: str, size: int = 5, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return NETS[name](size).double()


def graph(num_nodes: int = 14, seed: int = 0) -> Data:
    """Undirected, random, with labels and held-out items of both tasks."""
    g = torch.Generator().manual_seed(seed)
    upper = torch.triu_indices(num_nodes, num_nodes, offset=1)
    upper = upper[:, torch.rand(upper.size(1), generator=g) < 0.25]
    ring = torch.stack([torch.arange(num_nodes), (torch.arange(num_nodes) + 1) % num_nodes]).sort(dim=0).values
    edges = torch.cat([upper, ring], dim=1).unique(dim=1)
    held, edges = edges[:, ::6], edges[:, torch.arange(edges.size(1)) % 6 != 0]
    data = Data(
        x=torch.randn(num_nodes, 5, generator=g, dtype=torch.float64),
        edge_index=torch.cat([edges, edges.flip(0)], dim=1),
        y=torch.randint(3, (num_nodes,), generator=g),
        val_pos_edge_index=held,
        val_neg_edge_index=torch.tensor([[0, 1], [5, 9]]),
    )
    data.train_mask = torch.arange(num_nodes) % 3 != 0
    data.val_mask = ~data.train_mask
    return data


def problem(
    model: nn.Module, data: Data, task: Any, of: str = "edges", items: Any = None, target: Any = "loss"
) -> InfluenceProblem:
    return InfluenceProblem.of(model, data, as_task(task), resolve_items(data, of, items)[0], target)


def trained(model: nn.Module, data: Data, task: Any, epochs: int = 300) -> nn.Module:
    return gu.train(model, data, task, epochs=epochs, lr=0.02, weight_decay=1e-2, eval_every=epochs).model.eval()


def start(model: nn.Module) -> Tensor:
    return parameters_to_vector(model.parameters()).detach()


def outputs_at(model: nn.Module, data: Data, theta: Tensor) -> Tensor:
    """The model's outputs as a function of all its parameters in one vector, by PyG's own forward pass."""
    parts = theta.split([p.numel() for p in model.parameters()])
    state = {name: part.view_as(p) for (name, p), part in zip(model.named_parameters(), parts, strict=True)}
    return functional_call(copy.deepcopy(model).eval(), state, (data.x, data.edge_index))


def slope(function: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    theta = theta.clone().requires_grad_()
    return torch.autograd.grad(function(theta), theta)[0]


def dense_gauss_newton(logits: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    """`J^T H_z J` of the mean cross entropy of logits `[n, num_classes]`, or `[n]` for pairs."""
    jac, z = jacobian(logits, theta), logits(theta)
    if z.dim() == 1:
        p = z.sigmoid()
        return jac.t() @ ((p * (1 - p) / len(p))[:, None] * jac)
    p = z.softmax(dim=-1)
    bent = (torch.diag_embed(p) - p[:, :, None] * p[:, None, :]) / len(p)
    return torch.einsum("nip,nij,njq->pq", jac, bent, jac)


def smoothed(data: Data, size: int = 5) -> Tensor:
    """Features after two normalised propagations, which a linear model reads."""
    conv = SGConv(size, size, K=2, bias=False).double()
    nn.init.eye_(conv.lin.weight)
    return conv(data.x, data.edge_index).detach()


class Regression(NodeClassification):
    """Least squares on each node's scalar `data.y`: everything about it is a closed form for a linear model."""

    name = "regression"

    def decode(self, model: nn.Module, outputs: Tensor, items: Any) -> Prediction:
        z = outputs[items.index, 0]
        return Prediction(log_prob=-0.5 * (z - items.label.to(z)) ** 2, logits=z)
