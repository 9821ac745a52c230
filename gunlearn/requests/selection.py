"""The things that a request selects from a graph, and the nodes within some hops."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gunlearn.core.sorting import places
from gunlearn.requests.training_graph import TrainingGraph


@dataclass(frozen=True, eq=False)
class Selection:
    """Edges, nodes, feature entries and graphs to forget; `|` unites selections.

    Args:
        columns: columns of `data.edge_index`, ascending and distinct `[k]`; one column of an edge is enough.
        nodes: ids `[k]` of nodes to forget with their features, labels and edges.
        features: blocks of feature entries: node ids `[k]` and columns `[c]` (`None` for all columns).
        graphs: ids `[k]` of whole graphs of a batch (`data.batch`).
        skipped: named things that were skipped, in words; see `missing` of the requests.
    """

    columns: Tensor
    nodes: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    features: tuple[tuple[Tensor, Tensor | None], ...] = ()
    graphs: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    skipped: str = ""

    @classmethod
    def of(cls, graph: TrainingGraph, edges: Tensor | None = None, **parts: Any) -> Selection:
        """Return a selection from a graph; `edges` is a mask `[E]` of its columns, by default of none."""
        return cls(graph.edge_index[0, :0] if edges is None else places(edges), **parts)

    def __or__(self, other: Selection) -> Selection:
        return Selection(
            torch.cat([self.columns, other.columns]).unique(),
            torch.cat([self.nodes, other.nodes.to(self.nodes.device)]).unique(),
            (*self.features, *other.features),
            torch.cat([self.graphs, other.graphs.to(self.graphs.device)]).unique(),
            "; ".join(filter(None, (self.skipped, other.skipped))),
        )

    @property
    def forgets(self) -> tuple[str, ...]:
        """The kinds of things that are selected, among `"edges"`, `"nodes"`, `"features"`, `"graphs"`."""
        named = {
            "edges": self.columns.numel(),
            "nodes": self.nodes.numel(),
            "features": any(ids.numel() for ids, _ in self.features),
            "graphs": self.graphs.numel(),
        }
        return tuple(name for name, there in named.items() if there)

    def closed(self, graph: TrainingGraph) -> Selection:
        """Add what must be forgotten too: nodes of graphs, edges of nodes, both directions and copies of edges.

        Ids are sorted. Feature blocks lose forgotten nodes; blocks of the same columns become one.
        """
        device = graph.edge_index.device
        nodes, graphs = self.nodes.to(device).unique(), self.graphs.to(device).unique()
        if graphs.numel():
            nodes = torch.cat([nodes, torch.isin(graph.data.batch, graphs).nonzero().view(-1)]).unique()
        gone = graph.with_copies(self.columns) if self.columns.numel() else self.columns
        if nodes.numel():
            gone = torch.cat([gone, graph.columns_at(nodes)]).unique()
        blocks: dict[bytes | None, tuple[list[Tensor], Tensor | None]] = {}
        for ids, columns in self.features:
            columns = None if columns is None else columns.to(device).unique()
            key = None if columns is None else columns.cpu().numpy().tobytes()
            blocks.setdefault(key, ([], columns))[0].append(ids.to(device))
        merged = []
        for key in sorted(blocks, key=lambda k: (k is not None, k or b"")):
            ids = torch.cat(blocks[key][0]).unique()
            ids = ids[~torch.isin(ids, nodes)]
            if ids.numel():
                merged.append((ids, blocks[key][1]))
        return replace(self, columns=gone, nodes=nodes, features=tuple(merged), graphs=graphs)


def k_hop_mask(edge_index: Tensor, start: Tensor, num_nodes: int, num_hops: int, both_ways: bool = True) -> Tensor:
    """Return the nodes within `num_hops` of the nodes `start` (ids `[k]`), these included: boolean `[num_nodes]`.

    `both_ways` follows edges in both directions; otherwise from col to row only, the "source_to_target" flow of PyG's
    `k_hop_subgraph`.
    """
    row, col = edge_index
    mask = torch.zeros(num_nodes, dtype=torch.bool, device=edge_index.device).index_fill_(0, start, True)
    for _ in range(num_hops):
        reached = mask.clone()
        reached[row[mask[col]]] = True
        if both_ways:
            reached[col[mask[row]]] = True
        if torch.equal(reached, mask):
            break
        mask = reached
    return mask
