"""The plain PyG formulation of INPO and NORA: what one writes from the papers with PyG alone.

Dense features, gather-scatter messages over `edge_index` with the normalisation computed in every layer and pass (as
`GCNConv` without cache does), scores `(z[u] * z[v]).sum(-1)` over all edges in both directions. The maths is that of
`gunlearn` (tests/test_speed_experiment.py holds weights and losses side by side); nothing is slowed on purpose: no
gradient to the features in a step, constants computed once, per-edge factors multiplied before they meet the messages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.utils import add_remaining_self_loops, degree, negative_sampling, scatter


class PlainConv(MessagePassing):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(aggr="add")
        self.lin = nn.Linear(in_channels, out_channels, bias=False)
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor, edge_index: Tensor, scale: Tensor | None = None) -> Tensor:
        x = self.lin(x)
        edge_index, norm = gcn_norm(edge_index, None, x.size(0), dtype=x.dtype)
        weight = norm if scale is None else norm * scale
        return self.propagate(edge_index, x=x, edge_weight=weight) + self.bias

    def message(self, x_j: Tensor, edge_weight: Tensor) -> Tensor:
        return edge_weight.view(-1, 1) * x_j


class PlainGCN(nn.Module):
    """Names of the parameters are those of `gunlearn.GCN`, whose state it loads."""

    def __init__(self, in_channels: int, hidden_channels: int = 128, out_channels: int = 64) -> None:
        super().__init__()
        sizes = [in_channels, hidden_channels, out_channels]
        self.convs = nn.ModuleList(PlainConv(a, b) for a, b in pairwise(sizes))

    def forward(
        self, x: Tensor, edge_index: Tensor, scale: Tensor | None = None, inputs: list[Tensor] | None = None
    ) -> Tensor:
        """`inputs` collects what each layer read."""
        h = x
        for conv in self.convs:
            h = h if h is x else h.relu()
            if inputs is not None:
                inputs.append(h)
            h = conv(h, edge_index, scale)
        return h


@dataclass
class PlainGraph:
    """Dense features and plain edge lists.

    Attributes:
        x: `[num_nodes, num_features]`.
        full: the training graph, both directions.
        kept: the retained graph, both directions.
        forget: forgotten edges as they are scored, both directions as in the official code (or one).
        retain: retained edges as they are scored.
        forget_once: one column per forgotten edge.
        retain_once: one column per retained edge.
        held_out: validation and test edges and their negatives.
    """

    x: Tensor
    full: Tensor
    kept: Tensor
    forget: Tensor
    retain: Tensor
    forget_once: Tensor
    retain_once: Tensor
    held_out: dict[str, Tensor]

    @classmethod
    def of(cls, partition: Any, both_directions: bool = True) -> PlainGraph:
        data, kept = partition.data, partition.retain_data.edge_index
        once = partition.forget_edge_index, partition.retain_edge_index
        scored = (data.edge_index[:, partition.forget_mask], kept) if both_directions else once
        names = [f"{part}_{sign}_edge_index" for part in ("val", "test") for sign in ("pos", "neg")]
        x = data.x if data.x.layout == torch.strided else data.x.to_dense()
        return cls(x, data.edge_index, kept, *scored, *once, {name: data[name] for name in names if name in data})


def decode(z: Tensor, pairs: Tensor) -> Tensor:
    return (z[pairs[0]] * z[pairs[1]]).sum(dim=-1)


def plain_nora(model: PlainGCN, x: Tensor, edge_index: Tensor, beta: float = 8.0) -> Tensor:
    """Node influence scaled to [0, 1], from one forward and one backward pass, which leaves its gradient behind."""
    num_nodes, (source, target) = x.size(0), edge_index
    x, inputs = x.detach().requires_grad_(), []
    y = model(x, edge_index, inputs=inputs).softmax(dim=-1)
    for h in inputs[1:]:
        h.retain_grad()
    y.backward(gradient=y.detach())
    deg = degree(target, num_nodes, dtype=x.dtype)
    score, rate = torch.zeros_like(deg), torch.ones_like(deg)
    for h in reversed(inputs):
        score += rate * (h.detach() * h.grad).abs().sum(dim=1) * deg / (deg + beta)
        rate *= 1 - deg / ((num_nodes - 1) * (deg.mean() + beta))
    delta = (deg - 1).rsqrt() - deg.rsqrt()
    delta = torch.where(deg > 1, delta, torch.where(deg == 1, 1.0, 0.0))
    weight = 0.5 * deg.clamp(min=1).rsqrt() + 0.5
    around = scatter(weight[source], target, dim_size=num_nodes) * delta
    gather = scatter(around[source], target, dim_size=num_nodes)
    score = (score + gather / gather.mean() * score.mean()).abs()
    return (score - score.min()) / (score.max() - score.min())


class PlainINPO:
    """Set up by its constructor (NORA, message scales, reference outputs); `step()` is one optimiser step.

    Args:
        model: trained, left as it is.
        graph: the problem.
        settings: a `gunlearn.methods.INPO`, read for its mode and its numbers.
        negatives: draws `[2, n]` non-edges; PyG's `negative_sampling` by default.
    """

    def __init__(
        self, model: PlainGCN, graph: PlainGraph, settings: Any, negatives: Callable[[int], Tensor] | None = None
    ) -> None:
        self.graph, self.settings, self.paper = graph, settings, settings.mode == "paper"
        num_nodes = graph.x.size(0)
        self.negatives = negatives or (lambda n: negative_sampling(graph.full, num_nodes, n))
        self.model = PlainGCN(*(model.convs[0].lin.in_features, *(conv.lin.out_features for conv in model.convs)))
        self.model = self.model.to(graph.x)
        self.model.load_state_dict(model.state_dict())
        self.edges = graph.full if self.paper else graph.kept
        influence = plain_nora(self.model, graph.x, self.edges)
        if not self.paper:  # there the gradient that NORA leaves behind enters the first step
            self.model.zero_grad()
        self.scale = self._scale(influence)
        with torch.no_grad():
            self.z_ref = self.embed(damped=not self.paper)
            self.forget_ref = decode(self.z_ref, graph.forget)
            self.ends_ref = self.z_ref[graph.forget].softmax(dim=-1)
            if not self.paper:
                self.retain_ref = decode(self.z_ref, graph.retain)
                retain = decode(self.embed(damped=False), graph.retain)
                self.target = float(np.quantile(retain.double().cpu().numpy(), 0.05))
        self.optimizer = torch.optim.Adam(self.model.parameters(), settings.lr, weight_decay=settings.weight_decay)

    def _scale(self, influence: Tensor) -> Tensor:
        """One factor per message, in the order in which `gcn_norm` puts messages and self-loops."""
        num_nodes = influence.numel()
        (source, target), _ = add_remaining_self_loops(self.edges, num_nodes=num_nodes)
        scale = torch.exp(-(influence[source] + influence[target]))
        if self.paper:  # wherever both ends touch a retained edge, self-loops included
            touched = torch.zeros(num_nodes, dtype=torch.bool, device=source.device)
            touched[self.graph.retain.flatten()] = True
            return torch.where(touched[source] & touched[target], scale, 1.0)
        return torch.where(source == target, 1.0, scale)

    def embed(self, damped: bool) -> Tensor:
        """Embeddings of all nodes `[num_nodes, dim]`, with scaled messages or with plain ones."""
        return self.model(self.graph.x, self.edges, self.scale if damped else None)

    def step(self) -> float:
        loss = self.paper_loss() if self.paper else self.default_loss()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())

    def paper_loss(self) -> Tensor:
        graph, settings = self.graph, self.settings
        z = self.embed(damped=True)
        p_forget, p_retain = decode(z, graph.forget).sigmoid(), decode(z, graph.retain).sigmoid()
        ratio = p_forget / self.forget_ref.sigmoid() + 1e-4
        npo = 2 / settings.beta * torch.log(1 + ratio**settings.beta).mean()
        keep = F.binary_cross_entropy_with_logits(p_retain, torch.ones_like(p_retain))
        entropy = -(self.ends_ref * z[graph.forget].log_softmax(dim=-1)).sum(dim=-1).mean()
        return npo + settings.retain_weight * keep + settings.entropy_weight * entropy

    def default_loss(self) -> Tensor:
        graph, settings = self.graph, self.settings
        active = (self.above() > 0).to(graph.x.dtype)
        negatives = self.negatives(graph.retain.size(1))
        z = self.embed(damped=True)
        forget, pairs = decode(z, graph.forget), torch.cat([graph.retain, negatives], dim=1)
        score, label = decode(z, pairs), torch.zeros(pairs.size(1), dtype=z.dtype, device=z.device)
        label[: graph.retain.size(1)] = 1.0
        log_ratio = F.logsigmoid(forget) - F.logsigmoid(self.forget_ref)
        npo = (active * 2 / settings.beta * F.softplus(settings.beta * log_ratio)).mean()
        nll = F.binary_cross_entropy_with_logits(score, label)
        reference = torch.cat([self.retain_ref, decode(self.z_ref, negatives)])
        q = reference.sigmoid()
        # KL of two coins: the cross-entropy of logits with soft labels, less its own value at the reference
        kl = F.binary_cross_entropy_with_logits(score, q) - F.binary_cross_entropy_with_logits(reference, q)
        entropy = -(self.ends_ref * z[graph.forget].log_softmax(dim=-1)).sum(dim=-1).mean(dim=0)
        entropy = (active * entropy).mean()
        return npo + settings.retain_weight * nll + settings.entropy_weight * entropy + settings.kl_weight * kl

    @torch.no_grad()
    def above(self) -> Tensor:
        """How far each forgotten edge still is above its target, with plain messages: `until="separated"`."""
        return decode(self.embed(damped=False), self.graph.forget) - self.target
