"""What Cognac's contrast reads and minimises: affected nodes, a neighbour of each, and something forgotten."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from gunlearn.losses import Loss, Prediction
from gunlearn.tasks.base import PartItems, Parts, Task
from gunlearn.tasks.graph.node_classification import NodeParts


@dataclass(frozen=True, repr=False)
class Contrast(Loss):
    r"""Near one, far from another: :math:`\|a - p\| + \max(0, m - \|a - n\|)` of embeddings `[num_items, 3, dim]`.

    Args:
        margin: `m`, how far is far enough.
    """

    name = "contrast"
    summary = "distance to a neighbour, and to a margin off something forgotten"

    margin: float = 1.0

    @property
    def reads(self) -> tuple[str, ...]:
        return ("embeddings",)

    def values(self, current: Prediction, reference: Prediction | None = None) -> Tensor:
        anchor, positive, negative = current.require("embeddings").unbind(dim=1)
        far = torch.linalg.vector_norm(anchor - negative, dim=-1)
        return torch.linalg.vector_norm(anchor - positive, dim=-1) + (self.margin - far).relu()


@dataclass(frozen=True)
class TripleItems(PartItems):
    """Affected nodes with a positive and a negative each.

    Args:
        index: node ids `[num_items, 3]`.
        fixed: drawn anew at each step.
    """

    index: Tensor
    fixed: bool = False

    def decode(self, task: Task, model: nn.Module, outputs: Tensor) -> Prediction:
        """Predict nothing; hand on the outputs of each triple as embeddings `[num_items, 3, dim]`."""
        return Prediction(log_prob=outputs.new_zeros(self.num_items), embeddings=outputs[self.index])


class ContrastParts(Parts):
    """What Cognac's phases read; see `names`."""

    names: ClassVar[dict[str, str]] = {
        "affected": "affected nodes, each with a neighbour in the retained graph and with something forgotten",
        "forget": "training nodes among what is forgotten, as the original graph shows them",
        "retain": "the training nodes that stay",
    }
    outside: ClassVar[tuple[str, ...]] = ("affected", "forget")
    apart: ClassVar[bool] = True

    def __init__(self, plain: NodeParts, walk: Walk, nodes: Tensor, entities: Tensor) -> None:
        """`plain` has the two other parts; `entities` are where its data shows them, `[k]`, `nodes` the affected."""
        self.data, self.plain, self.walk, self.nodes, self.entities = plain.data, plain, walk, nodes, entities
        self.draws = plain.draws  # to limit these parts limits those

    def strata(self) -> Tensor:
        return self.plain.strata()

    def count(self, name: str) -> int:
        return self.nodes.numel() if name == "affected" else self.plain.count(name)

    def sample(self, names: Collection[str]) -> dict[str, Any]:
        plain = self.plain.sample([name for name in names if name != "affected"])
        return {name: self._triples() if name == "affected" else plain[name] for name in names}

    def _triples(self) -> TripleItems:
        draw = torch.randint(self.entities.numel(), (self.nodes.numel(),), device=self.nodes.device)
        return TripleItems(torch.stack([self.nodes, self.walk(self.nodes), self.entities[draw]], dim=1))


class Walk:
    """A random walk of random length, which stays at its start where it has no way or would end at something forgotten.

    Args:
        edge_index: `[2, num_edges]`.
        num_nodes: how many nodes there are.
        num_hops: longest length.
        avoid: nodes not to end at, ids `[k]`.
    """

    def __init__(self, edge_index: Tensor, num_nodes: int, num_hops: int, avoid: Tensor) -> None:
        """Edges by source."""
        order = edge_index[0].argsort(stable=True)
        self.target, self.degree = edge_index[1, order], torch.bincount(edge_index[0], minlength=num_nodes)
        self.start, self.num_hops, self.avoid = pad(self.degree.cumsum(0), (1, 0)), num_hops, avoid

    def __call__(self, nodes: Tensor) -> Tensor:
        """Return where walks from `nodes` end, ids `[k]`."""
        place, length = nodes, torch.randint(1, self.num_hops + 1, nodes.shape, device=nodes.device)
        for hop in range(self.num_hops):
            degree = self.degree[place]
            step = (torch.rand(nodes.shape, device=nodes.device) * degree).long().clamp(max=(degree - 1).clamp(min=0))
            goes = (degree > 0) & (hop < length)
            slot = torch.where(goes, self.start[place] + step, 0)
            place = torch.where(goes, self.target[slot], place) if self.target.numel() else place
        return torch.where(torch.isin(place, self.avoid), nodes, place)
