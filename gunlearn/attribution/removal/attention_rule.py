"""The rule of attention layers: attention is recomputed for the rows that an edit changes."""

from typing import Any

import torch
import torch_geometric.nn as pyg
from torch import Tensor
from torch.nn import functional

from gunlearn.attribution.removal.balls import Balls
from gunlearn.attribution.removal.linear_rule import Rule
from gunlearn.nn.kernels.scatter import scatter
from gunlearn.nn.kernels.sparse import csr
from gunlearn.nn.kernels.subgraph import spans


class GATRule(Rule):
    """`GATConv` and `GATv2Conv` without edge attributes."""

    layer: pyg.GATConv | pyg.GATv2Conv

    @classmethod
    def unfit(cls, layer: Any) -> str | None:
        return super().unfit(layer) if layer.edge_dim is None else "edge attributes"

    @property
    def _second(self) -> bool:
        return isinstance(self.layer, pyg.GATv2Conv)

    def _project(self, x: Any) -> tuple[Tensor, Tensor]:
        """Return the messages and the receivers' part of the attention, `[n, heads, channels]` each."""
        layer, shape = self.layer, (-1, self.layer.heads, self.layer.out_channels)
        if self._second:
            sender = layer.lin_l(x).view(shape)
            return sender, sender if layer.share_weights else layer.lin_r(x).view(shape)
        if layer.lin is not None:
            sender = layer.lin(x).view(shape)
            return sender, sender
        return layer.lin_src(x).view(shape), layer.lin_dst(x).view(shape)

    def record(self, x: Any) -> Tensor:
        layer, n = self.layer, self.structure.num_nodes
        self.sender, self.receiver = self._project(x)
        self.residual = None if layer.res is None else layer.res(x)
        node = torch.arange(n, device=self.sender.device)
        loops = torch.bincount(self.structure.edge_index[0, self.structure.loops], minlength=n)
        self.has_loop = torch.ones_like(node) if layer.add_self_loops else loops
        row, loop = (torch.repeat_interleave(node, count) for count in (self.structure.in_ptr.diff(), self.has_loop))
        row, other = torch.cat([row, loop]), torch.cat([self.structure.in_node, loop])
        return self._attend(self.sender, other, self.receiver, row, self.residual)

    def rows(self, balls: Balls, h: Tensor, num_given: int, num_rows: int) -> Tensor:
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
        held = self.has_loop[node]
        if not layer.add_self_loops:
            held[balls.loops[1]] = 0  # all columns of a loop are removed together
        itself = torch.repeat_interleave(torch.arange(num_rows, device=node.device), held)
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
