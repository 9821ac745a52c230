"""Rules compute a layer's output only for the rows that edits change. Here: layers linear in their messages."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gunlearn.attribution.removal.balls import Balls
from gunlearn.attribution.removal.structure import Structure
from gunlearn.nn.kernels.scatter import scatter


class Rule(ABC):
    """The rule for one call of one layer: it records the whole graph's output, then recomputes changed rows.

    `out` is the layer's output on the whole graph `[num_nodes, dim]`; `last` tells that no other layer follows. The
    rule holds for the aggregations `aggr`; `degree_in_sender` tells that a node's degree scales the messages that it
    sends.
    """

    layer: nn.Module
    out: Tensor
    last = False
    aggr: ClassVar[tuple[str, ...]] = ("add", "sum")

    def __init__(self, layer: nn.Module, structure: Structure, edge_weight: Tensor | None) -> None:
        self.layer, self.structure, self.edge_weight = layer, structure, edge_weight

    @property
    def degree_in_sender(self) -> bool:
        return False

    @classmethod
    def unfit(cls, layer: Any) -> str | None:
        """Return why the rule does not hold for this layer; `None` if it holds."""
        return None if layer.aggr in cls.aggr else f"aggr={layer.aggr!r}"

    @abstractmethod
    def record(self, x: Any) -> Tensor:
        """Compute the layer's output on the whole graph by the rule, and keep what `rows` needs."""

    @abstractmethod
    def rows(self, balls: Balls, h: Tensor, num_given: int, num_rows: int) -> Tensor:
        """Return the new outputs of the first `num_rows` rows, those whose output may change.

        `h` holds the new inputs of at least the first `num_given` rows of `balls`; all other inputs are unchanged.
        """


class LinearRule(Rule):
    r"""`out_i = f(r_i \sum_j a_ij s_j m_j + root_i)` with messages `m_j` linear in the sender's input."""

    @abstractmethod
    def send(self, x: Any) -> Tensor:
        """Return the messages `m` for inputs `[num_rows, dim]`."""

    def root(self, x: Any, message: Tensor) -> Tensor | None:
        """Return a node's contribution from its own input, given its message; `None` for nothing."""
        return None

    @abstractmethod
    def finish(self, out: Tensor) -> Tensor:
        """Apply `f`."""

    def scales(self, degree: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return `r` and `s` for nodes of this degree (sum of incoming weights); `None` for ones."""
        return None, None

    def loop_weights(self) -> tuple[Tensor, Tensor]:
        """Return each node's loop weight `[num_nodes]`, and its loss by a removed loop `[num_edges]`."""
        weight, loops = self.weights(), self.structure.loops
        source, size = self.structure.edge_index[0, loops], self.structure.num_nodes
        return scatter(weight[loops], source, dim=0, dim_size=size, reduce="sum"), weight

    def weights(self) -> Tensor:
        """Return the weight of each column, `[num_edges]`."""
        if self.edge_weight is not None:
            return self.edge_weight.view(-1).to(self.dtype)
        return torch.ones(self.structure.edge_index.size(1), dtype=self.dtype, device=self.structure.edge_index.device)

    def record(self, x: Any) -> Tensor:
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
        node, touched = balls.node, balls.upto[0]
        column, at, sender = balls.removed
        loop_column, loop_at = balls.loops
        weight = None if self.edge_weight is None else self.weights()
        gone = torch.ones(column.numel(), dtype=self.dtype, device=node.device) if weight is None else weight[column]
        loop_gone = self.loop_lost[loop_column]
        lost = torch.zeros(touched, dtype=self.dtype, device=node.device)
        lost.index_add_(0, at, gone).index_add_(0, loop_at, loop_gone)
        lost = lost if balls.lost is None else lost + balls.lost
        degree = self.degree[node[:touched]]
        left = degree - lost
        # Removing all weights leaves rounding errors, which a root would blow up.
        left = left.masked_fill(left.abs() <= 16 * torch.finfo(left.dtype).eps * degree.abs(), 0.0)
        r, s = self.scales(left)

        senders = max(num_given, touched if s is not None else 0)
        sent, new = self.sent[node[:senders]], self.message[node[num_given:senders]]
        if num_given:
            given = self.send(h[:num_given])
            new = torch.cat([given, new]) if senders > num_given else given
        if s is not None and self.s is not None:
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
            sums[:touched][left == 0] = 0  # no neighbour is left; normalisation would blow up a rounding error
        if r is not None and self.r is not None:
            factor = self.r[node[:num_rows]]
            factor[:touched] = r
            sums *= factor.view(-1, 1)
        if self.own is not None:
            own = self.own[node[num_given:num_rows]]
            changed = self.root(h[:num_given], given) if num_given else None
            sums += own if changed is None else torch.cat([changed, own])
        return self.finish(sums)
