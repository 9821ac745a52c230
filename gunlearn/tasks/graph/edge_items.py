"""Node pairs as items, and the parts of a link prediction problem."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch_geometric.data import Data

from gunlearn.errors import InvalidInputError
from gunlearn.nn.kernels.edge_scores import EdgePattern
from gunlearn.tasks.base import PartItems, Parts
from gunlearn.tasks.graph.negatives import NegativeSampler
from gunlearn.tasks.sampling import edge_strata


@dataclass(frozen=True)
class EdgeItems(PartItems):
    """Node pairs with labels.

    Args:
        chunks: patterns of pairs, one after the other.
        label: 1 for an edge, 0 for none, `[num_items]`.
        fixed: see `PartItems`.
        embeddings: predictions carry the end points' embeddings `[num_items, 2, dim]`.
        weight: of each item's loss value, `[num_items]`; `None` for equal ones.
    """

    chunks: tuple[EdgePattern, ...]
    label: Tensor
    fixed: bool = True
    embeddings: bool = False
    weight: Tensor | None = None

    @classmethod
    def of(cls, pairs: Tensor, label: float, num_nodes: int, keep: bool = False, **options: Any) -> EdgeItems:
        """Return pairs `[2, num_items]` of one label; see `EdgePattern` for `keep`."""
        labels = torch.full((pairs.size(1),), label, device=pairs.device)
        return cls((EdgePattern(pairs, num_nodes, keep),), labels, **options)

    @property
    def edge_label_index(self) -> Tensor:
        """Return all pairs, `[2, num_items]`."""
        pairs = [chunk.edge_index for chunk in self.chunks]
        return pairs[0] if len(pairs) == 1 else torch.cat(pairs, dim=1)

    def followed_by(self, other: EdgeItems) -> EdgeItems:
        """Return both in one object, not fixed; items without weights weigh 1."""
        weight = None
        if self.weight is not None or other.weight is not None:
            weight = torch.cat([torch.ones_like(i.label) if i.weight is None else i.weight for i in (self, other)])
        return EdgeItems(self.chunks + other.chunks, torch.cat([self.label, other.label]), fixed=False, weight=weight)

    def take(self, index: Tensor) -> EdgeItems:
        pairs = EdgePattern(self.edge_label_index[:, index], self.chunks[0].num_nodes)
        return self.rows(index, chunks=(pairs,), fixed=False)

    def share(self, rank: int, world: int) -> EdgeItems:
        chunks, start = [], rank
        for chunk in self.chunks:
            chunks.append(_every(chunk, start, world))
            start = (start - chunk.edge_index.size(1)) % world
        return self.rows(slice(rank, None, world), chunks=tuple(chunks))


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
        kinds: Tensor | None = None,
        room: int | None = None,
    ) -> None:
        """Negatives avoid edges `known` `[2, num_columns]` and nodes `gone`; strata are distances to nodes `start`.

        They join the types `kinds` `[room]` (see `node_kinds`) that the retained edges join. In a joint graph the
        retained graph's `room` nodes come first, and negatives hold no others.
        """
        self.data, self.num_nodes, self.start = data, data.num_nodes, start
        self.forget, self.retain, self.known, self.negatives = forget, retain, known, negatives
        self.draws, self.kinds = {}, kinds
        room = int(self.num_nodes) if room is None else room
        self.sampler = NegativeSampler(known, room, negatives == "non_edges", gone, kinds)
        few = self.sampler.too_few(retain)
        if few is not None:
            warnings.warn(f"{few}; a step draws those that there are more than once", stacklevel=2)
        self._fixed = {"retain_edges": EdgeItems.of(retain, 1.0, self.num_nodes, keep=True)}
        if forget is not None:
            self._fixed["forget"] = EdgeItems.of(forget, 1.0, self.num_nodes, keep=True, embeddings=True)

    def strata(self) -> Tensor:
        return edge_strata(self.retain, self.start, self.data.edge_index, self.num_nodes)

    def count(self, name: str) -> int:
        pairs = self.forget if name == "forget" else self.retain
        return 0 if pairs is None else pairs.size(1)

    def sample(self, names: Collection[str]) -> dict[str, EdgeItems]:
        known = [name for name in self.names if name in self._fixed or name != "forget"]
        for name in names:
            if name not in known:
                raise InvalidInputError(f"Expected a part among {known} (got '{name}')")
        out: dict[str, EdgeItems] = {}
        if "forget" in names:
            out["forget"] = self.drawn("forget", self._fixed["forget"])
        if set(names) - {"forget"}:
            out["retain_edges"] = self.drawn("retain", self._fixed["retain_edges"])
        if {"retain", "non_edges"} & set(names):
            edges = out["retain_edges"]
            absent = self.sampler.sample(edges.num_items, like=edges.edge_label_index)
            out["non_edges"] = EdgeItems.of(absent, 0.0, self.num_nodes, fixed=False)
        if "retain" in names:
            out["retain"] = out["retain_edges"].followed_by(out["non_edges"])
        return {name: out[name] for name in names}


_SHARES: WeakKeyDictionary[EdgePattern, tuple[int, int, EdgePattern]] = WeakKeyDictionary()


def _every(pattern: EdgePattern, start: int, step: int) -> EdgePattern:
    """Return every `step`-th pair, from `start` on; cached per pattern, since its layout takes sorting."""
    if _SHARES.get(pattern, ())[:2] != (start, step):
        share = EdgePattern(pattern.edge_index[:, start::step].contiguous(), pattern.num_nodes)
        _SHARES[pattern] = (start, step, share)
    return _SHARES[pattern][2]
