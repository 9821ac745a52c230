"""How a layer's output changes when few of its inputs and edges do: one rule per kind of convolution.

A rule remembers what the layer made of the whole graph; from that it computes the rows that a batch of edits changes,
and no others. Linear layers pass on the *difference* of each changed message; attention is computed anew for the rows
it changes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn
from torch.nn import functional

from gunlearn.attribution.removal.balls import Balls, Structure
from gunlearn.nn.attach.overrides import Override
from gunlearn.nn.kernels.scatter import scatter
from gunlearn.nn.kernels.sparse import SparseMatrix, csr
from gunlearn.nn.kernels.sparse_linear import first_linear
from gunlearn.nn.kernels.subgraph import spans
from gunlearn.nn.layers.influence_conv import InfluenceAwareConv, needs_messages


class Rule(ABC):
    """One call of one layer.

    Args:
        layer: the convolution.
        structure: the graph it was called on.
        edge_weight: weights it was called with, or `None`.

    Attributes:
        degree_in_sender: whether a node's own degree scales what it sends.
        out: the layer's output on the whole graph `[num_nodes, dim]`.
        last: whether no other layer follows.
    """

    last = False
    degree_in_sender = False

    def __init__(self, layer: nn.Module, structure: Structure, edge_weight: Tensor | None) -> None:
        self.layer, self.structure, self.edge_weight = layer, structure, edge_weight
        self.out: Tensor

    @staticmethod
    def unfit(layer: nn.Module) -> str | None:
        """Why the rule does not hold for this layer as it is set; `None` if it does."""
        return None

    @abstractmethod
    def record(self, x: Any) -> Tensor:
        """Remember what the layer makes of the whole graph; returns its output by the rule, to be checked."""

    @abstractmethod
    def rows(self, balls: Balls, h: Tensor, num_given: int, num_rows: int) -> Tensor:
        """New outputs of the first `num_rows` rows.

        Args:
            balls: the rows.
            h: new inputs, of the first `num_given` rows at least; all others are as they were.
            num_given: rows whose input may have changed.
            num_rows: rows whose output may change.
        """


class LinearRule(Rule):
    r"""`out_i = f(r_i \sum_j a_ij s_j m_j + root_i)` with messages `m_j` linear in the sender's input."""

    @abstractmethod
    def send(self, x: Any) -> Tensor:
        """Messages `m` of inputs `[num_rows, dim]`."""

    def root(self, x: Any, message: Tensor) -> Tensor | None:
        """What a node adds of its own."""
        return None

    @abstractmethod
    def finish(self, out: Tensor) -> Tensor:
        """`f`."""

    @abstractmethod
    def scales(self, degree: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """`r` and `s` of nodes of this degree (sum of incoming weights); `None` for ones."""

    def loop_weights(self) -> tuple[Tensor, Tensor]:
        """Weight of each node's loop `[num_nodes]`, and what each column takes away if it is a loop `[num_edges]`."""
        weight = self.weights()
        source = self.structure.edge_index[0, self.structure.loops]
        size = self.structure.num_nodes
        return scatter(weight[self.structure.loops], source, dim=0, dim_size=size, reduce="sum"), weight

    def weights(self) -> Tensor:
        """Weight of each column, `[num_edges]`."""
        if self.edge_weight is not None:
            return self.edge_weight.view(-1).to(self.dtype)
        return torch.ones(self.structure.edge_index.size(1), dtype=self.dtype, device=self.structure.edge_index.device)

    def record(self, x: Any) -> Tensor:
        """See `Rule.record`."""
        structure = self.structure
        self.message = self.send(x)
        self.dtype = self.message.dtype
        weight = self.weights()
        self.loop, self.loop_lost = self.loop_weights()
        target, n = structure.edge_index[1, structure.proper], structure.num_nodes
        self.degree = self.loop + scatter(weight[structure.proper], target, dim=0, dim_size=n, reduce="sum")
        self.r, self.s = self.scales(self.degree)
        self.sent = self.message if self.s is None else self.message * self.s.view(-1, 1)
        self.sums = structure.gather(weight, self.sent) + self.loop.view(-1, 1) * self.sent
        self.own = self.root(x, self.message)
        out = self.sums if self.r is None else self.sums * self.r.view(-1, 1)
        return self.finish(out if self.own is None else out + self.own)

    def rows(self, balls: Balls, h: Tensor, num_given: int, num_rows: int) -> Tensor:
        """See `Rule.rows`."""
        node, touched = balls.node, balls.upto[0]
        column, at, sender = balls.removed
        loop_column, loop_at = balls.loops
        lost = torch.zeros(touched, dtype=self.dtype, device=node.device)
        weight = None if self.edge_weight is None else self.edge_weight.view(-1).to(self.dtype)
        gone = torch.ones(column.numel(), dtype=self.dtype, device=node.device) if weight is None else weight[column]
        loop_gone = self.loop_lost[loop_column]
        lost.index_add_(0, at, gone).index_add_(0, loop_at, loop_gone)
        lost = lost if balls.lost is None else lost + balls.lost
        degree = self.degree[node[:touched]]
        left = degree - lost
        # Weights that are all gone leave rounding errors, which a root would blow up.
        left = left.masked_fill(left.abs() <= 16 * torch.finfo(left.dtype).eps * degree.abs(), 0.0)
        r, s = self.scales(left)

        senders = max(num_given, touched if s is not None else 0)
        sent = self.sent[node[:senders]]
        new = self.message[node[num_given:senders]]
        if num_given:
            given = self.send(h[:num_given])
            new = torch.cat([given, new]) if senders > num_given else given
        if s is not None:
            factor = self.s[node[:senders]]
            factor[:touched] = s
            new = new * factor.view(-1, 1)

        sums = self.sums[node[:num_rows]]
        if senders:
            balls.delta = delta = new - sent
            if balls.hops:
                sums += balls.spread(delta, weight, num_rows)
            sums[:senders] += self.loop[node[:senders]].view(-1, 1) * delta
        if balls.incoming is not None and self.last:
            sums[:touched] += balls.incoming
        if column.numel():
            went = new[sender] if senders and balls.hops else self.sent[node[sender]]
            sums.index_add_(0, at, went * gone.view(-1, 1), alpha=-1)
        if loop_column.numel():
            went = new[loop_at] if senders else self.sent[node[loop_at]]
            sums.index_add_(0, loop_at, went * loop_gone.view(-1, 1), alpha=-1)
        if weight is None or not bool((weight < 0).any()):
            sums[:touched][left == 0] = (
                0  # no neighbour is left: nothing, not a rounding error, which may be normalised
            )
        if r is not None:
            factor = self.r[node[:num_rows]]
            factor[:touched] = r
            sums *= factor.view(-1, 1)
        if self.own is not None:
            own = self.own[node[num_given:num_rows]]
            if num_given:
                own = torch.cat([self.root(h[:num_given], given), own])
            sums += own
        return self.finish(sums)


class GCNRule(LinearRule):
    """`GCNConv`, and our own `InfluenceAwareConv` without scales."""

    @property
    def degree_in_sender(self) -> bool:  # type: ignore[override]
        """Symmetric normalisation."""
        return getattr(self.layer, "normalize", True)

    @staticmethod
    def unfit(layer: nn.Module) -> str | None:
        """See `Rule.unfit`."""
        if isinstance(layer, InfluenceAwareConv):
            return None if layer._scale is None else "scaled messages"
        return None if layer.aggr in ("add", "sum") else f"aggr={layer.aggr!r}"

    def send(self, x: Any) -> Tensor:
        """`W x`."""
        return x @ self.layer.lin.weight.t() if isinstance(x, SparseMatrix) else self.layer.lin(x)

    def finish(self, out: Tensor) -> Tensor:
        """Add the bias."""
        return out if self.layer.bias is None else out + self.layer.bias

    def scales(self, degree: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """`1 / sqrt(degree)` on both sides; nodes without any incoming weight send and get nothing."""
        if not self.degree_in_sender:
            return None, None
        scale = torch.where(degree > 0, degree, 1.0).rsqrt() * (degree > 0)
        return scale, scale

    def loop_weights(self) -> tuple[Tensor, Tensor]:
        """A layer that adds loops keeps those there are, and adds its own where one goes."""
        held, lost = super().loop_weights()
        if not self.degree_in_sender or not getattr(self.layer, "add_self_loops", True):
            return held, lost
        if self.edge_weight is None:  # one loop of weight 1, whether it was there or not
            return torch.ones_like(held), torch.zeros_like(lost)
        fill = 2.0 if getattr(self.layer, "improved", False) else 1.0
        source = self.structure.edge_index[0, self.structure.loops]
        count, lost = torch.bincount(source, minlength=held.numel()), lost.clone()
        loop = torch.where(count > 0, held, fill)
        lost[self.structure.loops] = ((loop - fill) / count.clamp(min=1))[source]  # an item takes all copies of a loop
        return loop, lost


class SAGERule(LinearRule):
    """`SAGEConv` with mean or sum."""

    @staticmethod
    def unfit(layer: nn.Module) -> str | None:
        """See `Rule.unfit`."""
        if layer.aggr not in ("mean", "add", "sum"):
            return f"aggr={layer.aggr!r}"
        return "project=True" if layer.project else None

    def send(self, x: Any) -> Tensor:
        """`W_l x`: the linear map goes before the mean."""
        zero = self.layer.lin_l.bias
        out = self.layer.lin_l(x)
        return out if zero is None else out - zero

    def root(self, x: Any, message: Tensor) -> Tensor | None:
        """`W_r x`."""
        return self.layer.lin_r(x) if self.layer.root_weight else None

    def finish(self, out: Tensor) -> Tensor:
        """Bias and, where it is set, normalisation."""
        out = out if self.layer.lin_l.bias is None else out + self.layer.lin_l.bias
        return functional.normalize(out, p=2.0, dim=-1) if self.layer.normalize else out

    def scales(self, degree: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The mean."""
        return (1 / degree.clamp(min=1) if self.layer.aggr == "mean" else None), None


class GINRule(LinearRule):
    """`GINConv`; a linear map at the head of its network goes before the sum."""

    def __init__(self, layer: nn.Module, structure: Structure, edge_weight: Tensor | None) -> None:
        super().__init__(layer, structure, edge_weight)
        self.first = first_linear(layer.nn)

    @staticmethod
    def unfit(layer: nn.Module) -> str | None:
        """See `Rule.unfit`."""
        return None if layer.aggr in ("add", "sum") else f"aggr={layer.aggr!r}"

    def send(self, x: Any) -> Tensor:
        """The input, or its image under the network's first map."""
        if self.first is None:
            return x
        return self.first(x) if self.first.bias is None else self.first(x) - self.first.bias

    def root(self, x: Any, message: Tensor) -> Tensor | None:
        """`(1 + eps) x`."""
        return (1 + self.layer.eps) * message

    def finish(self, out: Tensor) -> Tensor:
        """The network."""
        if self.first is None:
            return self.layer.nn(out)
        done = _Done(self.first, out if self.first.bias is None else out + self.first.bias)
        done.install()
        try:
            return self.layer.nn(out)
        finally:
            done.uninstall()

    def scales(self, degree: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """A plain sum."""
        return None, None


class _Done(Override):
    """`forward` of a linear map whose result is known."""

    def __init__(self, layer: nn.Module, out: Tensor) -> None:
        super().__init__(layer, "")
        self.out = out

    def __call__(self, x: Tensor) -> Tensor:
        """The result."""
        return self.out


class GATRule(Rule):
    """`GATConv` and `GATv2Conv` without edge attributes: attention computed anew for the rows it changes."""

    @staticmethod
    def unfit(layer: nn.Module) -> str | None:
        """See `Rule.unfit`."""
        if layer.edge_dim is not None:
            return "edge attributes"
        return None if layer.aggr in ("add", "sum") else f"aggr={layer.aggr!r}"

    @property
    def _second(self) -> bool:
        return isinstance(self.layer, pyg.GATv2Conv)

    def _project(self, x: Any) -> tuple[Tensor, Tensor]:
        """Messages, which the attention reads of senders, and what it reads of receivers: `[n, heads, channels]`."""
        layer, shape = self.layer, (-1, self.layer.heads, self.layer.out_channels)
        if self._second:
            sender = layer.lin_l(x).view(shape)
            return sender, sender if layer.share_weights else layer.lin_r(x).view(shape)
        if layer.lin is not None:
            sender = layer.lin(x).view(shape)
            return sender, sender
        return layer.lin_src(x).view(shape), layer.lin_dst(x).view(shape)

    def record(self, x: Any) -> Tensor:
        """See `Rule.record`."""
        layer, n = self.layer, self.structure.num_nodes
        self.sender, self.receiver = self._project(x)
        self.residual = None if layer.res is None else layer.res(x)
        node = torch.arange(n, device=self.sender.device)
        if not layer.add_self_loops:
            loops = self.structure.edge_index[0, self.structure.loops]
            self.has_loop = torch.bincount(loops, minlength=n)
        row, other = torch.repeat_interleave(node, self.structure.in_ptr.diff()), self.structure.in_node
        loop = node if layer.add_self_loops else torch.repeat_interleave(node, self.has_loop)
        row, other = torch.cat([row, loop]), torch.cat([other, loop])
        return self._attend(self.sender, other, self.receiver, row, self.residual)

    def rows(self, balls: Balls, h: Tensor, num_given: int, num_rows: int) -> Tensor:
        """See `Rule.rows`."""
        layer, structure = self.layer, self.structure
        node, item = balls.node[:num_rows], balls.item[:num_rows]
        sender, receiver = self.sender, self.receiver[node]
        residual = None if self.residual is None else self.residual[node]
        if num_given:
            new_sender, new_receiver = self._project(h[:num_given])
            sender = torch.cat([new_sender, sender])
            receiver = torch.cat([new_receiver, receiver[num_given:]])
            if residual is not None:
                residual = torch.cat([layer.res(h[:num_given]), residual[num_given:]])
        place, count = spans(structure.in_ptr, node)
        row = torch.repeat_interleave(torch.arange(num_rows, device=node.device), count)
        other = structure.in_node[place]
        if balls.removed[0].numel():  # only rows that an item touches lose edges; a column may go in several items
            size = structure.edge_index.size(1)
            gone = balls.items.column_item * size + balls.items.column
            near = row < balls.upto[0]
            key = item[row[near]] * size + structure.in_column[place[near]]
            keep = torch.ones_like(row, dtype=torch.bool)
            keep[near] = ~torch.isin(key, gone)
            row, other = row[keep], other[keep]
        itself = torch.arange(num_rows, device=node.device)
        if not layer.add_self_loops:
            held = self.has_loop[node]
            held[balls.loops[1]] = 0  # all columns of a loop go together
            itself = torch.repeat_interleave(itself, held)
        row, other = torch.cat([row, itself]), torch.cat([other, node[itself]])
        found = balls.find(item[row], other)
        changed = (found >= 0) & (found < num_given)
        index = torch.where(changed, found, other + num_given)
        return self._attend(sender, index, receiver, row, residual)

    def _attend(self, sender: Tensor, index: Tensor, receiver: Tensor, row: Tensor, residual: Tensor | None) -> Tensor:
        layer, n = self.layer, receiver.size(0)
        if self._second:
            pair = functional.leaky_relu(sender[index] + receiver[row], layer.negative_slope)
            score = (pair * layer.att).sum(dim=-1)
        else:
            score = (sender * layer.att_src).sum(-1)[index] + (receiver * layer.att_dst).sum(-1)[row]
            score = functional.leaky_relu(score, layer.negative_slope)
        top = scatter(score, row, dim=0, dim_size=n, reduce="max")
        score = (score - top[row]).exp_()
        total = scatter(score, row, dim=0, dim_size=n, reduce="sum") + 1e-16
        score = score / total[row]
        heads = [csr(row, index, score[:, k], (n, sender.size(0))) @ sender[:, k] for k in range(layer.heads)]
        out = torch.cat(heads, dim=-1) if layer.concat else torch.stack(heads).mean(dim=0)
        out = out if residual is None else out + residual
        return out if layer.bias is None else out + layer.bias


RULES: dict[type, type[Rule]] = {
    pyg.GCNConv: GCNRule,
    InfluenceAwareConv: GCNRule,
    pyg.SAGEConv: SAGERule,
    pyg.GINConv: GINRule,
    pyg.GATConv: GATRule,
    pyg.GATv2Conv: GATRule,
}
"""Convolutions by exact type: a subclass may do anything."""


def rule_for(layer: nn.Module) -> tuple[type[Rule] | None, str | None]:
    """The rule of a layer, or why there is none."""
    rule = RULES.get(type(layer))
    if rule is None:
        return None, type(layer).__name__
    if layer.flow != "source_to_target":
        return None, f"{type(layer).__name__}: flow={layer.flow!r}"
    if needs_messages(layer) or any(name in layer.__dict__ for name in ("propagate", "message", "forward")):
        return None, f"{type(layer).__name__}: something is attached"
    why = rule.unfit(layer)
    return (rule, None) if why is None else (None, f"{type(layer).__name__}: {why}")
