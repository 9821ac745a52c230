"""Node pairs as items, and the parts of a link prediction problem."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch_geometric.data import Data

from gunlearn.errors import InvalidInputError
from gunlearn.nn.kernels.edge_scores import EdgePattern
from gunlearn.tasks.base import Parts
from gunlearn.tasks.graph.negatives import NegativeSampler
from gunlearn.tasks.sampling import Draw, edge_strata


@dataclass(frozen=True)
class EdgeItems:
    """Node pairs with labels.

    Args:
        chunks: patterns of pairs; their pairs follow each other.
        label: 1 for an edge, 0 for none, `[num_items]`.
        fixed: the same at every step, so that a reference prediction of them can be kept.
        embeddings: predictions carry the end points' embeddings `[num_items, 2, dim]`.
        weight: of each item's loss value, `[num_items]`; `None` for equal ones.
    """

    chunks: tuple[EdgePattern, ...]
    label: Tensor
    fixed: bool = True
    embeddings: bool = False
    weight: Tensor | None = None

    @property
    def edge_label_index(self) -> Tensor:
        """Return all pairs, `[2, num_items]`."""
        return torch.cat([chunk.edge_index for chunk in self.chunks], dim=1)

    @property
    def num_items(self) -> int:
        """Number of pairs."""
        return self.label.numel()

    def followed_by(self, other: EdgeItems) -> EdgeItems:
        """Return both as one, not fixed; items without weights weigh 1."""
        weight = None
        if self.weight is not None or other.weight is not None:
            ones = (torch.ones_like(i.label) for i in (self, other))
            weight = torch.cat([w if i.weight is None else i.weight for i, w in zip((self, other), ones, strict=True)])
        return EdgeItems(self.chunks + other.chunks, torch.cat([self.label, other.label]), fixed=False, weight=weight)

    def take(self, index: Tensor) -> EdgeItems:
        """Return some of the pairs, `[k]`."""
        pairs = EdgePattern(self.edge_label_index[:, index], self.chunks[0].num_nodes)
        weight = None if self.weight is None else self.weight[index]
        return replace(self, chunks=(pairs,), label=self.label[index], fixed=False, weight=weight)

    def share(self, rank: int, world: int) -> EdgeItems:
        """Return every `world`-th pair, from `rank` on."""
        chunks, start = [], rank
        for chunk in self.chunks:
            chunks.append(_every(chunk, start, world))
            start = (start - chunk.edge_index.size(1)) % world
        weight = None if self.weight is None else self.weight[rank::world]
        return replace(self, chunks=tuple(chunks), label=self.label[rank::world], weight=weight)


class EdgeParts(Parts):
    """Parts of a link prediction problem; see `names`."""

    names: ClassVar[dict[str, str]] = {
        "forget": "the edges to forget, labelled 1, with the embeddings of their end points",
        "retain": "every retained edge, labelled 1, and as many fresh negatives, labelled 0",
        "retain_edges": "every retained edge, labelled 1",
        "non_edges": "fresh random pairs that are no edges, as many as retained edges, labelled 0",
    }

    def __init__(
        self,
        data: Data,
        forget: Tensor | None,
        retain: Tensor,
        known: Tensor,
        negatives: str,
        gone: Tensor | None = None,
        start: Tensor | None = None,
    ) -> None:
        """Edges that negatives avoid `[2, num_columns]`, nodes that they avoid, nodes that strata are distances to."""
        self.data, self.num_nodes, self.start = data, data.num_nodes, start
        self.forget, self.retain, self.known, self.negatives = forget, retain, known, negatives
        self.draw: Draw | None = None
        self.forget_draw: Draw | None = None
        # In a joint graph, ids of the retained one come first, and `gone` ends with them.
        room = self.num_nodes if gone is None else gone.numel()
        self.sampler = NegativeSampler(known, room, negatives == "non_edges", gone)
        self._fixed = {"retain_edges": self._items(retain, 1.0)}
        if forget is not None:
            self._fixed["forget"] = self._items(forget, 1.0, embeddings=True)

    def _items(self, edge_index: Tensor, label: float, **options: Any) -> EdgeItems:
        pattern = EdgePattern(edge_index, self.num_nodes, keep=options.get("fixed", True))
        return EdgeItems((pattern,), torch.full((edge_index.size(1),), label, device=edge_index.device), **options)

    def strata(self) -> Tensor:
        """Return the distance of each retained edge to what is forgotten; one stratum where nothing is."""
        if self.start is None:
            return torch.zeros_like(self.retain[0])
        return edge_strata(self.retain, self.start, self.data.edge_index, self.num_nodes)

    def count(self, name: str) -> int:
        """Return the number of forgotten or retained edges."""
        pairs = self.forget if name == "forget" else self.retain
        return 0 if pairs is None else pairs.size(1)

    def limit(self, draw: Draw, part: str = "retain") -> None:
        """Read batches; as many negatives as retained edges are drawn."""
        if part == "forget":
            self.forget_draw = draw
        else:
            self.draw = draw

    def _retained(self) -> EdgeItems:
        if self.draw is None:
            return self._fixed["retain_edges"]
        index, weight = self.draw()
        return self._items(self.retain[:, index.to(self.retain.device)], 1.0, fixed=False, weight=weight)

    def sample(self, names: Collection[str]) -> dict[str, EdgeItems]:
        out: dict[str, EdgeItems] = {}
        edges: EdgeItems | None = None
        fresh: EdgeItems | None = None
        for name in names:
            if name == "forget" and name in self._fixed:
                fixed, draw = self._fixed[name], self.forget_draw
                out[name] = fixed if draw is None else fixed.take(draw()[0].to(fixed.label.device))
                continue
            if name not in self.names or name == "forget":
                known = [n for n in self.names if n in self._fixed or n != "forget"]
                raise InvalidInputError(f"Expected a part among {known} (got '{name}')")
            edges = self._retained() if edges is None else edges
            if name == "retain_edges":
                out[name] = edges
                continue
            if fresh is None:
                fresh = self._items(self.sampler.sample(edges.label.numel()), 0.0, fixed=False)
            out[name] = fresh if name == "non_edges" else edges.followed_by(fresh)
        return out


_SHARES: WeakKeyDictionary[EdgePattern, tuple[int, int, EdgePattern]] = WeakKeyDictionary()


def _every(pattern: EdgePattern, start: int, step: int) -> EdgePattern:
    """Return every `step`-th pair, from `start` on; kept per pattern, since its layout takes sorting."""
    if _SHARES.get(pattern, ())[:2] != (start, step):
        share = EdgePattern(pattern.edge_index[:, start::step].contiguous(), pattern.num_nodes)
        _SHARES[pattern] = (start, step, share)
    return _SHARES[pattern][2]
